import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xraylib

from esmpy_jax._checks import InputError
from esmpy_jax.physics import (
    Detector,
    Layer,
    LayeredEfficiency,
    MeasuredEfficiency,
    detector_window,
)

ENERGY = np.array([0.15, 0.3, 0.525, 1.25, 1.9, 6.4, 17.5, 30.0])


def test_depth_of_a_compound_layer_agrees_with_xraylib(precision):
    layer = Layer.of("Si3N4", 3.44, 150)
    expected = [xraylib.CS_Total_CP("Si3N4", e) * 3.44 * 150e-7 for e in ENERGY]
    np.testing.assert_allclose(layer.depth(jnp.asarray(ENERGY)), expected, rtol=5e-3)


def test_windowless_crystal_counts_what_it_absorbs_photoelectrically(precision):
    efficiency = detector_window("Windowless")
    expected = [-np.expm1(-xraylib.CS_Photo(14, e) * 2.33 * 0.045) for e in ENERGY]
    np.testing.assert_allclose(efficiency(jnp.asarray(ENERGY)), expected, rtol=5e-3)


def test_ap33_window_is_close_to_what_nist_states(precision):
    values = detector_window("ap3.3")(jnp.array([0.3, 3.0, 30.0]))
    np.testing.assert_allclose(values, [0.152, 0.753, 0.091], rtol=0.04)


def test_ap33_window_is_the_product_of_its_layers(x64):
    def passing(formula, density, nm, energy):
        return np.exp(-xraylib.CS_Total_CP(formula, energy) * density * nm * 1e-7)

    expected = [
        passing("Al", 2.70, 50, e)
        * passing("C10H8O4N", 1.39, 300, e)
        * passing("Si", 2.33, 30, e)
        * (0.77 + 0.23 * passing("Si", 2.33, 0.38e6, e))
        * -np.expm1(-xraylib.CS_Photo(14, e) * 2.33 * 0.037)
        for e in ENERGY
    ]
    np.testing.assert_allclose(detector_window("ap3.3")(jnp.asarray(ENERGY)), expected, rtol=1e-2)


@pytest.mark.parametrize("name", ["windowless", "ap3.3", "be", "si3n4"])
def test_windows_are_shares_and_finite_everywhere(precision, name):
    efficiency = detector_window(name)
    values = eqx.filter_jit(efficiency)(
        jnp.concatenate([jnp.array([-0.5, 0.0]), jnp.geomspace(0.01, 100, 500)])
    )
    assert np.isfinite(values).all()
    assert ((values >= 0) & (values <= 1)).all()
    assert efficiency.description.endswith("Si crystal")


def test_beryllium_stops_oxygen_and_nitride_lets_it_pass():
    oxygen = jnp.array([0.525])
    assert detector_window("be")(oxygen)[0] < 0.01
    assert 0.4 < detector_window("si3n4")(oxygen)[0] < 0.8


def test_bars_that_stop_everything():
    crystal = Layer.of("Si", 2.33, 1e9)
    efficiency = LayeredEfficiency((), crystal, open_area=0.6)
    np.testing.assert_allclose(efficiency(jnp.array([1.0, 8.0])), 0.6, rtol=1e-6)
    assert efficiency.description == "grid 60 % open + 1000 mm Si crystal"


def check_gradient(function, module, rtol=1e-6):
    """Reverse mode against central differences, in every array leaf."""
    gradient = jax.tree.leaves(eqx.filter_grad(function)(module))
    leaves, structure = jax.tree.flatten(module)
    assert len(gradient) == len(leaves) > 0
    for i, leaf in enumerate(leaves):
        flat = jnp.ravel(leaf)
        for j in range(flat.size):
            h = 1e-5 * max(abs(float(flat[j])), 1e-3)

            def at(value, i=i, j=j, flat=flat, leaf=leaf):
                moved = [*leaves]
                moved[i] = flat.at[j].set(value).reshape(leaf.shape)
                return function(jax.tree.unflatten(structure, moved))

            numeric = (at(flat[j] + h) - at(flat[j] - h)) / (2 * h)
            assert jnp.ravel(gradient[i])[j] == pytest.approx(float(numeric), rel=rtol, abs=1e-12)


@pytest.mark.parametrize(
    "efficiency",
    [
        lambda: detector_window("ap3.3"),
        lambda: LayeredEfficiency((Layer.of("Be", 1.85, 8e3),), Layer.of("Si", 2.33, 4.5e5), 0.8),
        lambda: MeasuredEfficiency([0.1, 1.0, 5.0, 40.0], [0.1, 0.5, 0.9, 0.2]),
    ],
    ids=["ap3.3", "opaque bars", "measured"],
)
def test_gradients_of_the_efficiency(x64, efficiency):
    energy = jnp.array([0.3, 0.7, 4.0, 25.0])
    weight = jnp.array([1.0, 2.0, -1.0, 3.0])
    module = efficiency()
    function = eqx.filter_jit(lambda m, e: weight @ m(e))
    check_gradient(lambda m: function(m, energy), module)
    slope = jax.grad(lambda e: function(module, e))(energy)
    step = 1e-6 * np.eye(4)
    numeric = [(function(module, energy + h) - function(module, energy - h)) / 2e-6 for h in step]
    np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-9)


def test_measured_curve_interpolates_and_drops_its_padding(precision):
    curve = MeasuredEfficiency([0.0, 1.0, 3.0, 0.0, 0.0], [0.0, 0.5, 0.9, 0.0, 0.0])
    np.testing.assert_array_equal(curve.energies, [0.0, 1.0, 3.0])
    np.testing.assert_allclose(curve(jnp.array([0.5, 2.0, 3.0, 9.0])), [0.25, 0.7, 0.9, 0.9])
    assert curve.description == "measured curve, 0 to 3 keV"


def test_measured_curve_tells_what_it_covers():
    curve = MeasuredEfficiency([0.1, 1.0, 20.0], [0.5, 0.5, 0.9])
    curve.check_covers(0.1, 20.0)
    for low, high in ((0.05, 10.0), (0.2, 20.1)):
        with pytest.raises(InputError, match=r"covers 0.1 to 20 keV, but the model needs it from"):
            curve.check_covers(low, high)


@pytest.mark.parametrize(
    "text",
    [
        "0.1 0.25\n1.0 0.75\n2.0\t0.5\n",
        "energy (keV), efficiency\n0.1,0.25\n1.0,0.75\n2.0,0.5\n0,0\n",
        "# from the manual\n\n0.1; 0.25\n1.0; 0.75\n2.0; 0.5\n",
        "\ufeff0.1,0.25\r\n1.0,0.75\r\n2.0,0.5\r\n",
    ],
)
def test_measured_curve_is_read_from_text(tmp_path, text):
    path = tmp_path / "curve.csv"
    path.write_text(text, encoding="utf-8")
    curve = MeasuredEfficiency.read(path)
    np.testing.assert_allclose(curve.energies, [0.1, 1.0, 2.0])
    np.testing.assert_allclose(curve.values, [0.25, 0.75, 0.5])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no efficiency curve"),
        ("0.1 0.2\n1.0\n", "Line 2 of .* does not hold two numbers"),
        ("0.1 0.2\n", "at least two points"),
        ("0.1 0.2\n0.1 0.3\n", "do not increase"),
        ("0.1 20\n1.0 90\n", "from 20 to 90; give shares between 0 and 1, not percent"),
        ("100 0.2\n20000 0.9\n", "looks like eV; give keV"),
        ("0.1 0.2\n1.0 nan\n", "not finite"),
    ],
)
def test_unusable_curves_are_refused(tmp_path, text, words):
    path = tmp_path / "curve.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        MeasuredEfficiency.read(path)


def test_curves_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        MeasuredEfficiency.read(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="two lists of one length"):
        MeasuredEfficiency([1.0, 2.0], [0.5])
    with pytest.raises(InputError, match="at least two points"):
        MeasuredEfficiency([0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Layer.of("Si", 0.0, 10), "density of the layer of Si is 0 g/cm³"),
        (lambda: Layer.of("Si", 2.33, -1), "layer of Si is -1 nm thick"),
        (lambda: Layer.of("Xq2", 2.33, 1), "Xq"),
        (lambda: detector_window("glass"), "no detector window called 'glass'; choose windowless"),
        (lambda: LayeredEfficiency((), Layer.of("Si", 2.33, 1e5), 1.2), "leaves 1.2 of the window"),
        (lambda: detector_window("be").check_covers(0.1, 150), "up to 100 keV, but 150 keV"),
    ],
)
def test_impossible_layers_are_refused(build, words):
    with pytest.raises(InputError, match=words):
        build()


def test_default_detector():
    detector = Detector()
    assert detector.efficiency.description == "450 µm Si crystal"
    assert detector.resolution.fwhm(jnp.asarray(5.895)) == pytest.approx(0.13, rel=1e-6)
