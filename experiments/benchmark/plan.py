"""How large and how long every part of the benchmark is."""

import dataclasses

SOLVERS = (
    "VariableProjectionNewton",
    "MultiplicativeUpdate",
    "JointMultiplicativeUpdate",
    "ExtrapolatedUpdate",
    "SquaremUpdate",
    "ProjectedGradient",
    "QuadraticSurrogate",
    "BlockMirrorDescent",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The full run; `QUICK` shows that everything works.

    - `size`: pixels along each axis. `doses`: counts per pixel.
    - `rounds`: turns of the programs for the time per iteration.
    - `optimum_rounds`: turns for the time to the optimum; runs of over `once` seconds take one.
    - `solvers`: ratios are to the first of them. `binned`: whether the binned route is taken.
    - `cap`, `plain_cap`: seconds that a solver and the multiplicative update may search.
    - `max_steps`: of such a search.
    - `counts`, `sizes`, `columns`, `phases`: the axes of scaling, around `doses[0]`, `size`, 14
        and 3.
    - `repeats`: of every short timing. `processes`: of the first fit.
    - `stream`, `gathers`, `matrix`: floats of a stream, gathers, rows of a square matrix with
        which the machine's limits are measured.
    - `starts`, `small`: number of starts and pixels along each axis for the two precisions.
        `shares`: of filled channels, for the two storages.
    """

    size: int = 128
    doses: tuple[float, ...] = (18.0, 293.0)
    rounds: int = 5
    optimum_rounds: int = 3
    once: float = 10.0
    solvers: tuple[str, ...] = SOLVERS
    binned: bool = True
    cap: float = 20.0
    plain_cap: float = 120.0
    max_steps: int = 40000
    counts: tuple[float, ...] = (5.0, 18.0, 50.0, 150.0, 500.0)
    sizes: tuple[int, ...] = (64, 96, 128, 192, 256)
    columns: tuple[int, ...] = (7, 14, 28)
    phases: tuple[int, ...] = (2, 3, 5, 8)
    repeats: int = 7
    processes: int = 3
    stream: int = 2**25
    gathers: int = 2**22
    matrix: int = 2048
    starts: int = 10
    small: int = 64
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    quick: bool = False


FULL = Plan()
QUICK = Plan(
    size=64,
    doses=(18.0,),
    rounds=2,
    optimum_rounds=1,
    solvers=SOLVERS[:2],
    cap=5.0,
    plain_cap=10.0,
    counts=(18.0, 72.0),
    sizes=(32, 64),
    columns=(7, 14),
    phases=(2, 3),
    repeats=3,
    processes=1,
    stream=2**22,
    gathers=2**20,
    matrix=512,
    starts=2,
    small=32,
    shares=(0.1, 0.5),
    quick=True,
)
