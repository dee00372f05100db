"""The command line: every command, every kind of picture, and errors that are one line."""

import re
import subprocess
import sys

import numpy as np
import pytest

from pystn.cli import main

Image = pytest.importorskip("PIL.Image", reason="the command line needs pillow")
pytest.importorskip("skimage", reason="the demo needs scikit-image's photograph")
pytest.importorskip("tqdm", reason="registration needs tqdm")

RNG = np.random.default_rng(0)
PICTURES = {
    "grey": RNG.integers(0, 256, (24, 24), dtype=np.uint8),
    "grey-alpha": np.dstack([RNG.integers(0, 256, (24, 24)), np.full((24, 24), 255)]).astype(np.uint8),
    "rgb": RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8),
    "rgba": np.dstack([RNG.integers(0, 256, (24, 24, 3)), np.full((24, 24), 255)]).astype(np.uint8),
    "16-bit": RNG.integers(0, 65536, (24, 24), dtype=np.uint16),
}


@pytest.fixture(params=PICTURES)
def picture(request, tmp_path):
    pixels = PICTURES[request.param]
    path = tmp_path / "in.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def warped(path, *options):
    out = path.with_name("out.png")
    assert main(["warp", str(path), str(out), *options]) == 0
    return pixels_of(out)


def test_identity_keeps_pixels_and_depth(picture):
    path, pixels = picture
    result = warped(path)
    assert result.dtype == pixels.dtype
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_positive_rotation_is_counter_clockwise(picture, turns):
    path, pixels = picture
    np.testing.assert_array_equal(warped(path, "--rotate", str(90 * turns)), np.rot90(pixels, turns))


def test_translation_moves_right_and_down(picture):
    path, pixels = picture
    result = warped(path, "--translate", "3", "2")
    np.testing.assert_array_equal(result[2:, 3:], pixels[:-2, :-3])
    assert not result[:2].any()
    assert not result[:, :3].any()


def test_scale_enlarges_and_size_sets_the_canvas(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(PICTURES["grey"]).save(path)
    result = warped(path, "--scale", "2", "--size", "48", "48", "--mode", "nearest")
    np.testing.assert_array_equal(result, np.kron(PICTURES["grey"], np.ones((2, 2), np.uint8)))


def test_matrix_goes_from_output_to_input(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(PICTURES["grey"]).save(path)
    result = warped(path, "--matrix", "0", "1", "2", "1", "0", "0", "--padding", "border")
    np.testing.assert_array_equal(result, PICTURES["grey"].T[np.minimum(np.arange(24) + 2, 23)])


def test_shear_leans_the_top_to_the_right(tmp_path):
    pixels = np.zeros((33, 33), np.uint8)
    pixels[:, 16] = 255
    path = tmp_path / "in.png"
    Image.fromarray(pixels).save(path)
    result = warped(path, "--shear", "45")
    np.testing.assert_array_equal(result, np.fliplr(np.eye(33, dtype=np.uint8)) * 255)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic", "spline", "lanczos"])
@pytest.mark.parametrize("padding, pad", [("border", "edge"), ("mirror", "reflect"), ("symmetric", "symmetric")])
def test_modes_interpolate_and_paddings_extend(tmp_path, mode, padding, pad):
    """Whole pixels are kept by every mode, and what is outside is what numpy.pad makes there."""
    if (mode, padding) == ("spline", "border"):
        pytest.skip("the coefficients are what the border extends, not the pixels")
    path = tmp_path / "in.png"
    Image.fromarray(PICTURES["grey"]).save(path)
    result = warped(path, "--translate", "5", "0", "--mode", mode, "--padding", padding)
    expected = np.pad(PICTURES["grey"], ((0, 0), (5, 0)), mode=pad)[:, :24]
    np.testing.assert_array_equal(result, expected)


def test_wrap_comes_in_again(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(PICTURES["grey"]).save(path)
    result = warped(path, "--translate", "5", "0", "--padding", "wrap")
    np.testing.assert_array_equal(result, np.roll(PICTURES["grey"], 5, axis=1))


def test_transparent_pixels_do_not_bleed_colour(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)
    pixels[:, 4:] = (0, 255, 0, 0)  # green that nobody sees
    path = tmp_path / "in.png"
    Image.fromarray(pixels).save(path)
    result = warped(path, "--translate", "0.5", "0", "--padding", "border")
    np.testing.assert_array_equal(result[:, 4], np.tile([255, 0, 0, 128], (8, 1)))


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr"])
def test_other_kinds_of_picture_are_converted(tmp_path, mode):
    source = Image.fromarray(PICTURES["rgb"]).convert(mode)
    path = tmp_path / "in.tif"
    source.save(path)
    expected = np.array(source.convert("L" if mode == "1" else "RGB"))
    np.testing.assert_array_equal(warped(path), expected)


def test_float_pictures_keep_their_values(tmp_path):
    pixels = RNG.standard_normal((8, 8)).astype(np.float32)
    path = tmp_path / "in.tif"
    Image.fromarray(pixels).save(path)
    out = tmp_path / "out.tif"
    assert main(["warp", str(path), str(out)]) == 0
    np.testing.assert_array_equal(pixels_of(out), pixels)


def test_demo_recovers_its_transform(tmp_path, capsys):
    out = tmp_path / "demo.png"
    assert main(["demo", "--seed", "0", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert float(re.search(r"corner error: (\S+) px", printed)[1]) < 0.1
    before, after = (float(re.search(rf"difference {when}: +(\S+)", printed)[1]) for when in ("before", "after"))
    assert after < before / 5
    assert pixels_of(out).shape[1] > 1000


def test_register_finds_a_shift_between_files(tmp_path, capsys):
    from skimage.data import camera

    photo = camera()
    for name, pixels in (("fixed", photo[40:340, 40:340]), ("moving", photo[50:350, 33:333])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    out = tmp_path / "out.png"
    assert main(["register", str(tmp_path / "fixed.png"), str(tmp_path / "moving.png"), "-o", str(out)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    np.testing.assert_allclose(np.array(rows, float), [[1, 0, 7], [0, 1, -10]], atol=0.05)
    assert out.exists()


def test_module_and_version():
    shown = subprocess.run([sys.executable, "-m", "pystn", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"pystn \d+\.\d+\.\d+\S*\n", shown.stdout)


def test_info_names_the_instruction_set(capsys):
    assert main(["info"]) == 0
    assert re.search(r"^instruction set +\w+", capsys.readouterr().out, re.MULTILINE)


def test_errors_are_one_line_and_exit_code_2(tmp_path, capsys):
    good, text, small = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "small.png"
    Image.fromarray(PICTURES["rgba"]).save(good)
    Image.fromarray(PICTURES["grey"]).save(small)
    text.write_text("not a picture")
    out = tmp_path / "out.png"
    cases = {
        ("warp", tmp_path / "absent.png", out): "absent.png: No such file",
        ("warp", text, out): "not an image",
        ("warp", good, tmp_path / "out.xyz"): "unknown image format '.xyz'",
        ("warp", good, tmp_path / "no" / "out.png"): "is no directory",
        ("warp", good, tmp_path / "out.jpg"): "cannot write mode RGBA as JPEG",
        ("warp", good, out, "--scale", "0"): "leaves no picture",
        ("warp", good, out, "--scale", "1", "2", "3"): "--scale takes one factor or two",
        ("warp", good, out, "--rotate", "nan"): "finite numbers",
        ("warp", good, out, "--rotate", "left"): "invalid float value: 'left'",
        ("warp", good, out, "--size", "0", "5"): "--size must be 1 or more",
        ("warp", good, out, "--mode", "sinc"): "invalid choice: 'sinc'",
        ("warp", good): "required: OUTPUT",
        ("register", small, small, "-o", out): "at least 32 x 32",
        ("sharpen",): "invalid choice: 'sharpen'",
        (): "required: COMMAND",
    }
    for arguments, message in cases.items():
        assert main([str(a) for a in arguments]) == 2, arguments
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1, printed.err
        assert message in printed.err
        assert not out.exists()


def test_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["warp", "in.png", str(tmp_path / "out.png")]) == 2
    assert 'pip install "pystn[cli]"' in capsys.readouterr().err
