"""Damage in sealed layers: found before use, removed, named; what is known to be fine costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from skerry_node.image import importing, integrity, sealing, store
from tests.harness import images

BELOW = images.make_tar({"etc/a": b"below"})
ABOVE = images.make_tar({"etc/b": b"above" * 5000})


@pytest.fixture
def kept(tmp_path):
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


@pytest.fixture
def layout(tmp_path):
    return images.write_layout(str(tmp_path / "layout"), [BELOW, ABOVE], name="one:1")


@pytest.fixture
def image(kept, layout):
    return importing.import_layout(kept, layout)


@contextlib.contextmanager
def checking(kept, *, bytes_per_second=1 << 40):
    told = []
    checks = integrity.Checks(kept, bytes_per_second=bytes_per_second, on_damage=lambda layer, broken: told.append((layer, broken)))
    try:
        yield checks, told
    finally:
        checks.close()


def damage(kept, layer, position=-3000):
    path = os.path.join(kept.layers_dir, layer.path)
    with open(path, "r+b") as file:
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def again(kept, image, tmp_path):
    """The store after a restart."""
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as opened:
        yield opened


async def test_what_was_just_made_is_not_read_again(kept, image):
    """Its bytes have passed through the seal."""
    with checking(kept) as (checks, told):
        damage(kept, image.layers[0])
        await checks.ensure(image)
    assert told == []


@pytest.mark.parametrize("position", [0, 1024, 4096, -1, -3000])
async def test_damage_is_found_before_the_first_use(again, image, layout, position):
    """Wherever it is: the layer goes, its images are not found, the other layer stays; importing again mends all."""
    damage(again, image.layers[1], position)
    with checking(again) as (checks, told):
        with pytest.raises(integrity.LayerDamaged, match=image.layers[1].diff_id):
            await checks.ensure(image)
        assert told == [(image.layers[1], (image,))]
        assert again.find("one:1") is None
        assert again.has_layer(image.layers[0].diff_id)
        assert importing.import_layout(again, layout) == image
        await checks.ensure(image)


async def test_a_cut_layer_is_damaged(again, image):
    """Also one that is too long or empty."""
    for layer, size in zip(image.layers, (0, 1 << 20), strict=True):
        os.truncate(os.path.join(again.layers_dir, layer.path), size)
    with checking(again) as (checks, _), pytest.raises(integrity.LayerDamaged):
        await checks.ensure(image)


async def test_a_layer_is_looked_at_once(again, image, monkeypatch):
    """However many wait for it at the same time, and however often it is used."""
    looks = []
    real = sealing.seal
    monkeypatch.setattr(sealing, "seal", lambda fd, **named: (looks.append(fd), real(fd, **named))[1])
    with checking(again) as (checks, _):
        await asyncio.gather(*(checks.ensure(image) for _ in range(5)))
        await checks.ensure(image)
    assert len(looks) == 2


async def test_the_next_agent_of_this_boot_believes_the_last(kept, image, tmp_path):
    """But not of a file that was changed since, and not after a reboot."""
    record = str(tmp_path / "verified")
    kept.verified.load(record)
    kept.verified.discard(image.layers[0].path)
    kept.verified.add(image.layers[0].path)
    damage(kept, image.layers[1])
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        again.verified.load(record)
        assert again.verified.has(image.layers[0].path)
        assert not again.verified.has(image.layers[1].path)
        with checking(again) as (checks, _), pytest.raises(integrity.LayerDamaged):
            await checks.ensure(image)
    os.unlink(record)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as rebooted:
        rebooted.verified.load(record)
        assert not rebooted.verified.has(image.layers[0].path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../etc/passwd 1 2 3\n", b"x" * 100_000])
async def test_a_damaged_record_is_no_record(kept, image, tmp_path, content):
    """Then the layers are looked at."""
    (tmp_path / "verified").write_bytes(content)
    with contextlib.closing(store.Store(str(tmp_path / "store"))) as again:
        again.verified.load(str(tmp_path / "verified"))
        assert not again.verified.has(image.layers[0].path)


async def until(claim):
    async with asyncio.timeout(20):
        while not claim():  # noqa: ASYNC110 - what it waits for is in another thread
            await asyncio.sleep(0.01)


async def test_the_scrubber_finds_damage_in_time(kept, image):
    """Also in what was known to be fine; the sound layer is left."""
    damage(kept, image.layers[1])
    with checking(kept) as (checks, told):
        task = asyncio.ensure_future(checks.scrub())
        await until(lambda: told)
        task.cancel()
    assert told == [(image.layers[1], (image,))]
    assert kept.has_layer(image.layers[0].diff_id)


async def test_the_scrubber_is_slow_and_ends_at_once(kept, image):
    """It waits for the rate between pieces, and not when the agent ends."""
    with checking(kept, bytes_per_second=1) as (checks, told):
        task = asyncio.ensure_future(checks.scrub())
        await asyncio.sleep(0.3)
        task.cancel()
        damage(kept, image.layers[0])
    assert told == []


async def test_a_scrubber_that_is_off_does_nothing(kept, image):
    """It returns."""
    with checking(kept, bytes_per_second=0) as (checks, _):
        await checks.scrub()


def test_each_layer_gets_its_turn():
    """Those that were never looked at first, then the one whose look is longest ago, a day after it; layers that went are forgotten."""
    from tests.unit.image.test_collecting import image as make  # noqa: PLC0415

    looked = {"x": 5.0, "gone": 1.0}
    layers = [make("a", x=1, y=1), make("b", y=1, z=1)]
    assert integrity._next(layers, looked, now=10.0).path == "y"
    assert looked == {"x": 5.0}
    looked |= {"y": 7.0, "z": 6.0}
    assert integrity._next(layers, looked, now=10.0) is None
    assert integrity._next(layers, looked, now=integrity.ROUND_SECONDS + 6.5).path == "x"
