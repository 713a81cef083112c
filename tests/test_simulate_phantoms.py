"""Phantoms: shares sum to one, volumes and profiles match closed forms, keys decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.simulate import gradient, grain_boundary, random_texture, spheres, thickness_map

PHANTOMS = {
    "spheres": lambda: spheres((40, 48), key=jax.random.key(0), radius=7.0),
    "spheres two sizes": lambda: spheres(
        (60, 60), key=jax.random.key(1), radius=(4.0, 9.0), count=(5, 2), foil_thickness=10.0
    ),
    "grain boundary": lambda: grain_boundary((30, 40)),
    "gradient": lambda: gradient((20, 31), n_phases=4),
    "gradient down": lambda: gradient((20, 31), n_phases=3, axis="y"),
    "texture": lambda: random_texture((32, 24), key=jax.random.key(2), n_phases=5),
}


@pytest.mark.parametrize("make", PHANTOMS.values(), ids=PHANTOMS.keys())
def test_shares_are_non_negative_and_sum_to_one(make, precision):
    maps = make()
    assert maps.dtype == precision
    assert float(maps.min()) >= 0
    np.testing.assert_allclose(np.asarray(maps.sum(0)), 1.0, atol=1e-6)


def test_a_key_gives_the_same_scene_in_both_precisions():
    for name in ("spheres", "texture"):
        single = np.asarray(PHANTOMS[name]())
        with jax.enable_x64(True):
            double = np.asarray(PHANTOMS[name]())
        np.testing.assert_allclose(single, double, atol=3e-5)


@pytest.mark.parametrize(("radius", "foil"), [(6.0, 24.0), (6.0, 12.0), (9.3, 10.0), (25.0, 7.0)])
def test_projected_volume_of_a_sphere(radius, foil):
    """Its fraction × foil thickness, summed, is the volume inside the foil."""
    maps = np.asarray(
        spheres((64, 64), radius=radius, centres=[[(31.3, 31.8)]], foil_thickness=foil), float
    )
    half = min(foil / 2, radius)
    volume = 2 * np.pi * (radius**2 * half - half**3 / 3)  # integral of the disc areas
    assert (maps[1] * foil).sum() == pytest.approx(volume, rel=2e-3)
    # The path through the middle.
    assert maps[1].max() == pytest.approx(min(1, 2 * radius / foil), rel=0.01)


def test_default_spheres_never_fill_a_pixel_and_leave_pure_matrix():
    maps = np.asarray(spheres(key=jax.random.key(4)))
    assert maps.shape == (3, 128, 128)
    np.testing.assert_allclose(maps[1:].max((1, 2)), 0.5, rtol=1e-3)
    assert maps[0].max() == 1.0
    assert (maps[1] * maps[2]).max() == 0, "particles overlap"


def test_spheres_lie_inside_and_apart():
    maps = np.asarray(spheres((80, 80), key=jax.random.key(3), radius=8.0, count=(4, 5)))
    expected = 4 / 3 * np.pi * 8**3 / 32  # per sphere: nothing is cut off by the border
    np.testing.assert_allclose(maps[1:].sum((1, 2)), [4 * expected, 5 * expected], rtol=5e-3)
    assert maps[1:].sum(0).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 110.0])
def test_boundary_layer_holds_what_its_profile_says(angle):
    maps = np.asarray(grain_boundary((101, 101), width=5.0, peak=0.4, angle=angle), float)
    middle = maps[2].max()
    assert middle == pytest.approx(0.4, rel=0.02)
    # A line of length L across the image holds L × peak × integral of the Gaussian.
    turn = np.radians(angle)
    length = 101 / max(abs(np.cos(turn)), abs(np.sin(turn)))
    area = 0.4 * 5.0 * np.sqrt(np.pi / (4 * np.log(2)))
    assert maps[2].sum() == pytest.approx(length * area, rel=0.02)
    # The grains are mirror images through the centre of the image.
    np.testing.assert_allclose(maps[0], maps[1][::-1, ::-1], atol=1e-5)


def test_boundary_width_is_its_half_maximum():
    profile = np.asarray(grain_boundary((3, 201), width=10.0, peak=1.0, angle=90.0))[2, 1]
    assert np.count_nonzero(profile > 0.5) in (9, 10, 11)


def test_gradient_is_linear_and_ends_pure():
    maps = np.asarray(gradient((4, 9), n_phases=3))
    np.testing.assert_allclose(maps[0, 2], [1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(maps[1, 0], [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(gradient((9, 4), n_phases=3, axis="y"))[:, :, 1], maps[:, 1]
    )


def test_texture_has_its_length_and_contrast():
    key = jax.random.key(5)
    maps = random_texture((256, 256), key=key, n_phases=2, length=6.0, contrast=2.0)
    # The softmax of two fields: the difference of the logits is the difference of the fields.
    field = np.asarray(jnp.log(maps[0]) - jnp.log(maps[1]), float)
    assert field.std() == pytest.approx(2.0 * np.sqrt(2), rel=0.1)
    # White noise smoothed by a Gaussian of sigma L has the correlation exp(-d² / (4 L²)).
    for shift in (3, 6, 10):
        measured = np.mean(field * np.roll(field, shift, axis=1)) / np.mean(field**2)
        assert measured == pytest.approx(np.exp(-(shift**2) / (4 * 6.0**2)), abs=0.08)
    other = random_texture((256, 256), key=jax.random.key(6), n_phases=2)
    assert abs(np.corrcoef(np.ravel(maps[0]), np.ravel(other[0]))[0, 1]) < 0.3


def test_without_contrast_a_texture_is_flat():
    maps = random_texture((8, 8), key=jax.random.key(0), n_phases=4, contrast=0.0)
    np.testing.assert_allclose(np.asarray(maps), 0.25, atol=1e-7)


def test_thickness_spans_its_range_and_is_smooth():
    thickness = np.asarray(thickness_map((64, 64), key=jax.random.key(1), length=10.0))
    assert thickness.min() == pytest.approx(0.5)
    assert thickness.max() == pytest.approx(1.5)
    assert np.abs(np.diff(thickness, axis=0)).max() < 0.15


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spheres((20, 20), radius=3.0), "key"),
        (lambda: spheres((20, 20), radius=30.0, key=jax.random.key(0)), "does not fit"),
        (lambda: spheres((40, 40), radius=9.0, count=(9,), key=jax.random.key(0)), "do not fit"),
        (lambda: spheres((20, 20), radius=(3.0, 4.0), count=1, key=jax.random.key(0)), "radii"),
        (
            lambda: spheres(
                (20, 20),
                radius=5.0,
                centres=[[(9.0, 9.0), (9.0, 10.0), (10.0, 10.0)]],
                foil_thickness=10.0,
            ),
            "overlap",
        ),
        (lambda: spheres((0, 20), radius=3.0, key=jax.random.key(0)), "shape"),
        (lambda: gradient((4, 4), axis="z"), "axis"),
        (lambda: grain_boundary((4, 4), peak=1.5), "between 0 and 1"),
        (lambda: random_texture((4, 4), key=jax.random.key(0), n_phases=0), "at least 1"),
        (lambda: thickness_map((4, 4), key=jax.random.key(0), low=2.0, high=1.0), "low <= high"),
    ],
)
def test_bad_parameters_get_one_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()
