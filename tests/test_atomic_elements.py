"""Elements by symbol, name or number; compositions in atomic and weight fractions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esmpy_jax._checks import InputError
from esmpy_jax.atomic import (
    Composition,
    Element,
    atomic_to_weight,
    parse_element,
    parse_elements,
    weight_to_atomic,
)

numbers = st.integers(1, 99)


@settings(deadline=None)
@given(numbers, st.sampled_from([str.lower, str.upper, str.title, lambda text: f" {text} "]))
def test_every_name_of_an_element_leads_back_to_it(number, change):
    element = Element(number)
    for name in (element.symbol, element.name, str(number)):
        assert parse_element(change(name)) == element
    assert parse_element(number) == parse_element(np.int32(number)) == parse_element(element)


@pytest.mark.parametrize(
    ("value", "symbol"),
    [("fe", "Fe"), ("aluminum", "Al"), ("Sulphur", "S"), ("cesium", "Cs"), ("26", "Fe")],
)
def test_spellings(value, symbol):
    assert parse_element(value).symbol == symbol


def test_known_elements():
    assert [Element(z).symbol for z in (1, 26, 57, 72, 99)] == ["H", "Fe", "La", "Hf", "Es"]
    assert Element(74).name == "Tungsten"
    # CIAAW standard atomic weights; xraylib's are older and rounded (Au 197.2).
    for symbol, weight in (("O", 15.999), ("Si", 28.085), ("Fe", 55.845), ("Au", 196.967)):
        assert parse_element(symbol).atomic_weight == pytest.approx(weight, rel=2e-3)
    assert sorted([Element(26), Element(8)]) == [Element(8), Element(26)]
    assert len({Element(z).symbol for z in range(1, 100)}) == 99
    assert str(Element(26)) == "Fe"


@pytest.mark.parametrize(
    ("value", "suggestion"),
    [("Fee", "Fe"), ("Irn", "Fe"), ("Silcon", "Si"), ("Xx", "Xe"), ("Fe2", "Fe"), ("", "or")],
)
def test_unknown_elements_name_the_nearest(value, suggestion):
    with pytest.raises(InputError, match=suggestion):
        parse_element(value)


@pytest.mark.parametrize("value", [0, 100, -1, "0", "120"])
def test_atomic_numbers_out_of_range(value):
    with pytest.raises(InputError, match=r"1 .H. to 99 .Es."):
        parse_element(value) if isinstance(value, str) else Element(value)


@settings(deadline=None)
@given(st.lists(numbers, unique=True), st.sampled_from([",", ", ", " ", ";", " ; "]))
def test_lists_of_elements_keep_their_order(chosen, separator):
    elements = tuple(map(Element, chosen))
    assert parse_elements(chosen) == elements
    assert parse_elements(separator.join(map(str, elements))) == elements


def test_repeated_or_missing_elements():
    with pytest.raises(InputError, match="O is listed twice"):
        parse_elements("O,Mg,oxygen")
    with pytest.raises(InputError, match="not an element"):
        parse_elements("O,,Mg")


def test_composition_of_a_formula():
    bridgmanite = Composition.from_formula("Mg0.9Fe0.1SiO3")
    assert [e.symbol for e in bridgmanite.elements] == ["O", "Mg", "Si", "Fe"]
    np.testing.assert_allclose(bridgmanite.atomic_fractions, [0.6, 0.18, 0.2, 0.02])
    assert bridgmanite == Composition.from_atomic({"O": 3.0, "Mg": 0.9, 8 + 6: 1, "iron": 0.1})
    # By hand: 3·15.999 + 0.9·24.305 + 28.085 + 0.1·55.845 = 103.54 g/mol for 5 atoms.
    assert bridgmanite.mean_atomic_weight == pytest.approx(103.54 / 5, rel=1e-3)
    assert bridgmanite.weight_fractions[0] == pytest.approx(3 * 15.999 / 103.54, rel=1e-3)
    apatite = Composition.from_formula(" Ca5(PO4)3F ")
    np.testing.assert_allclose(apatite.atomic_fractions, [12 / 21, 1 / 21, 3 / 21, 5 / 21])


def test_quartz_by_weight():
    quartz = Composition.from_weight({"Si": 46.74, "O": 53.26})
    np.testing.assert_allclose(quartz.atomic_fractions, [1 / 3, 2 / 3], rtol=1e-3)
    np.testing.assert_allclose(quartz.weight_fractions, [0.4674, 0.5326], rtol=1e-9)


@pytest.mark.parametrize("amounts", [{}, {"O": -1, "Mg": 2}, {"O": 0}, {"O": float("nan")}])
def test_bad_amounts(amounts):
    with pytest.raises(InputError, match=r"composition|amounts"):
        Composition.from_atomic(amounts)


def test_bad_compositions():
    with pytest.raises(InputError, match="not a chemical formula"):
        Composition.from_formula("Mg0.9Qq")
    with pytest.raises(InputError, match="sum to one"):
        Composition((Element(8), Element(12)), (0.5, 0.6))
    with pytest.raises(InputError, match="distinct"):
        Composition((Element(8), Element(8)), (0.5, 0.5))


fractions = st.lists(st.floats(1e-3, 1), min_size=3, max_size=3)


@settings(deadline=None)
@given(fractions, st.lists(numbers, min_size=3, max_size=3))
def test_weight_and_atomic_fractions_are_inverse(values, chosen):
    weights = np.array([Element(z).atomic_weight for z in chosen])
    atomic = np.array([values, values[::-1]]).T
    there = atomic_to_weight(atomic, weights)
    np.testing.assert_allclose(there.sum(0), 1)
    back = weight_to_atomic(there, weights)
    np.testing.assert_allclose(back, atomic / atomic.sum(0, keepdims=True), rtol=1e-12)


def test_fractions_in_jax(precision):
    atomic, weights = jnp.array([[0.25, 0.0], [0.75, 0.0]]), jnp.array([30.0, 10.0])
    weight = atomic_to_weight(atomic, weights)
    assert weight.dtype == precision
    np.testing.assert_allclose(weight, [[0.5, 0.0], [0.5, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: atomic_to_weight(x, weights)[0].sum())(atomic)
    assert np.isfinite(np.asarray(gradient)).all()
