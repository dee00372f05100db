"""What tests of all that samples share: one warp, boundary, convention or layout after the other."""

import pytest
from conftest import CONVENTIONS, EVERY_PADDING_MODE
from warps import WARPS


@pytest.fixture(params=WARPS)
def warp(request):
    return WARPS[request.param]


@pytest.fixture(params=EVERY_PADDING_MODE)
def padding_mode(request):
    return request.param


@pytest.fixture(params=CONVENTIONS, ids=lambda c: "pixel" if c[1] == "pixel" else f"align={c[0]}")
def convention(request):
    return request.param


@pytest.fixture(params=[1, -1], ids=["channels-first", "channels-last"])
def channel_axis(request):
    return request.param
