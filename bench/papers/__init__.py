"""The papers' results again, on real data: ``python -m bench.papers NAME --data DIR``.

``python -m bench.papers`` without a name lists the experiments: what each shows, what it needs, and the threshold its
result is held against. A run shows its progress, prints a table and writes ``OUT/NAME.json`` (settings, machine, every
seed's result and learning curve, whether thresholds are met) and ``OUT/NAME.png``.

An experiment
-------------
A module in this folder has ``EXPERIMENTS``, a tuple of `Experiment` records, and stands in ``MODULES`` below; that is
all it takes to be listed, run and tested. A record has

* ``name``, ``shows`` and ``threshold``: for the table;
* ``needs``: the data it asks of ``context.data``, "mnist" or the name of a series set ("GunPoint");
* ``models``: what it compares, by name; ``--only`` chooses some of them;
* ``settings``: all numbers of the full run, by name. ``quick`` and ``digits`` are what differs with these options;
  ``--set steps=500`` changes any of them by hand;
* ``run``: a function of a `Context` that returns a `Result`.

`Context` is what the command line said: ``settings`` (as attributes), ``data``, ``models``, ``seeds`` and ``out``, a
folder for further files. One model is trained with one seed by `training.train`, which returns a `Run`. A `Result` has
the runs, the `Check` records (made of the means over the seeds, by `ratio_check` and `level_check`) and the picture's
rows of images (`Panel`).

The modules beside: `data` reads MNIST, the UCR series and scikit-learn's digits; `training` is the one loop of all
experiments; `networks` has the papers' networks; `distortions` disturbs digits as the papers do; `report` writes.

Comparisons are fair: the sides of one have the same data in the same order, initialisation by the same seed, the same
optimiser, rates and number of steps, and as many parameters as each other where the paper has it so. Numbers are means
over the seeds, measured after the last step: no step is chosen. Rates are from short trials, one for all sides.
"""

MODULES = (
    "stn_mnist",
    "addition",
    "boundary",
    "aliasing",
    "ic_stn",
    "p_stn",
    "joint_alignment",
    "colocalization",
    "projection",
)
