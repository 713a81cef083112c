"""Tables of the results for the terminal and the README, and the files beside it."""

import csv
import json
import pathlib
from collections.abc import Iterator

from figures import digits, figure_of_programs, figure_of_scaling

#: How many times faster this program should be than the others, at the lower and the higher dose.
AIMS = {"espm, float64": (400.0, 80.0), "scikit-learn, sparse": (12.0, 20.0)}  # an iteration
OPTIMUM_AIM, COMPILED_AIM = 3000.0, 300.0  # to the optimum; with compilation
PASS_AIM, KERNEL_AIM = 0.6, 1 / 3  # of the bandwidth, for `pixel_pass`; of the limit, for all
GAP_AIM = 0.1  # nats of float32 above the optimum
FIRST_AIMS = {"no cache": 8.0, "from the cache": 2.0}  # seconds
#: How the cost of a step should grow at most: with counts, pixels, columns and phases.
EXPONENTS = {"multiplicative": (1, 1, 1, 1), "Newton": (1, 1, 2, 3)}
ESPM = "espm, float64"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def row(cells) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def head(cells: list[str]) -> Iterator[str]:
    yield row(cells)
    yield "|---" * len(cells) + "|"


def image_of(dose: dict) -> str:
    return f"{dose['counts per pixel']:.0f} counts/pixel"


def aim(ratio: float, least: float) -> str:
    return f"aim: {least:g}, {'met' if ratio >= least else 'NOT met'}"


def iterations(section: dict) -> Iterator[str]:
    """Milliseconds per iteration of every program, and their ratios."""
    doses = section["doses"]
    titles = ["milliseconds per iteration: median (range)"]
    for dose in doses:
        titles += [f"{image_of(dose)}, {dose['nonzero']:.2%} nonzero", "× slower"]
    yield from head(titles)
    first = doses[0]["summary"]
    for name in sorted(first, key=lambda n: first[n]["median"]):
        cells = [name]
        for dose in doses:
            s = dose["summary"][name]
            low, high = digits(1e3 * s["smallest"]), digits(1e3 * s["largest"])
            cells += [f"{digits(1e3 * s['median'])} ({low}-{high})", digits(s["ratio"])]
        yield row(cells)
    yield ""
    for name in AIMS:
        for i, dose in enumerate(doses):
            if name in dose["summary"]:
                ratio = dose["summary"][name]["ratio"]
                yield (
                    f"- At {image_of(dose)} {dose['baseline']} is {digits(ratio)} times faster "
                    f"than {name} ({aim(ratio, AIMS[name][i])})."
                )
    for dose in doses:
        times = ", ".join(f"{n} {s:.2g} s" for n, s in dose["compile seconds"].items())
        yield f"- Compilation, not included, at {image_of(dose)}: {times}."
        checked = dose["the same updates as espm"]
        if checked is not None:
            yield (
                f"- After {checked['steps']} iterations espm and this program are "
                f"{checked['nats apart']:.2g} nats apart, "
                f"{checked['nats won by this program']:.4g} below the start, in float64."
            )
    yield (
        f"- {section['size']} × {section['size']} pixels, {doses[0]['channels']} channels, "
        f"{doses[0]['columns']} columns, {doses[0]['phases']} phases; {section['rounds']} rounds."
    )


def optimum(section: dict) -> Iterator[str]:
    """Steps and seconds to within a nat of the optimum."""
    for dose in section["doses"]:
        yield from head(
            [
                f"to within 1 nat, {image_of(dose)}",
                "steps",
                "seconds",
                "× slower",
                "with compilation",
                "× slower",
                "its optimum above the best one, nats",
            ]
        )
        rows, summary = dose["rows"], dose["summary"]
        names = sorted(rows, key=lambda n: (not rows[n]["within"], summary[n]["median"]))
        fastest = rows[dose["baseline"]]["first"]
        for name in names:
            found, s = rows[name], summary[name]
            more = "" if found["within"] else "> "
            optimum = found["above the best optimum"]
            other = "the same" if optimum < 0.1 else f"{optimum:.3g} (another one)"
            yield row(
                [
                    name + ("" if found["repeated"] else " (once)"),
                    more + str(found["steps"]),
                    more + digits(s["median"]),
                    more + digits(s["ratio"]),
                    more + digits(found["first"]),
                    more + digits(found["first"] / fastest),
                    other if found["within"] else f"{other}; still {found['above']:.3g} above it",
                ]
            )
        yield ""
    for dose in section["doses"]:
        rows, name = dose["rows"], dose["baseline"]
        if ESPM not in rows:
            continue
        more = "" if rows[ESPM]["within"] else "more than "
        ratio = dose["summary"][ESPM]["ratio"]
        whole = rows[ESPM]["first"] / rows[name]["first"]
        yield (
            f"- At {image_of(dose)} {name} is {more}{digits(ratio)} times faster than {ESPM} "
            f"({aim(ratio, OPTIMUM_AIM)}), with compilation {more}{digits(whole)} times "
            f"({aim(whole, COMPILED_AIM)})."
        )
    yield (
        "- Every solver starts from the same W and H, the binned route from the same W and the "
        "means of the same H over its bins; its time includes the binning and the binned fit. "
        "Seconds are those of `factorise` with compiled code; *with compilation* those of the "
        "first call. *Once*: too slow to be repeated, the time of the search without `factorise`."
    )
    yield (
        "- `>`: not within a nat after the steps and the time that it was given; the ratios are "
        "lower bounds. *Another one*: its optimum is a different and worse local one."
    )
    if any(ESPM in dose["rows"] for dose in section["doses"]):
        yield (
            "- espm's time is its time per iteration, measured in turns with the others, times the "
            "number of iterations that the same updates, MultiplicativeUpdate, need from the same "
            "start to within a nat of the optimum that they end in."
        )


def limits(section: dict) -> Iterator[str]:
    """The machine's rates, and the passes as shares of their bounds."""
    rates = section["machine limits"]
    tables = section["tables"]
    yield (
        f"The machine: {rates['triad, bytes/s'] / 1e9:.3g} GB/s (triad in place), "
        f"{rates['sum, bytes/s'] / 1e9:.3g} GB/s (sum), {rates['flop/s'] / 1e9:.3g} GFLOP/s "
        "(matrix product, float32), random gathers "
        + " and ".join(
            f"{rates[f'gathers/s, {name}'] / 1e9:.3g} Gfloat/s (from {length} floats)"
            for name, length in tables.items()
        )
        + "."
    )
    yield ""
    titles = ["one pass over the counts"]
    for dose in section["doses"]:
        titles += [f"ms, {image_of(dose)}", "bound by", "share of the limit", "GB/s"]
    yield from head(titles)
    for name in section["doses"][0]["passes"]:
        cells = [f"`{name}`"]
        for dose in section["doses"]:
            p = dose["passes"][name]
            cells += [digits(1e3 * p["seconds"]), p["bound by"], f"{p['share']:.0%}"]
            cells.append(digits(p["touched"] / p["seconds"] / 1e9))
        yield row(cells)
    yield ""
    for dose in section["doses"]:
        first = dose["passes"].get("pixel_pass")
        if first is not None:
            used = first["touched"] / first["seconds"] / rates["triad, bytes/s"]
            met = "met" if used >= PASS_AIM else "NOT met"
            yield (
                f"- At {image_of(dose)} the first-order pass `pixel_pass` uses {used:.0%} of the "
                f"bandwidth (aim: {PASS_AIM:.0%}, {met}): it is bound by {first['bound by']}, and "
                f"comes to {first['share']:.0%} of what they allow."
            )
        low = [f"`{n}`" for n, p in dose["passes"].items() if p["share"] < KERNEL_AIM]
        if low:
            yield f"- At {image_of(dose)} below a third of their limit: {', '.join(low)}."
    yield (
        "- *GB/s*: the bytes of the nonzero counts and of the entries of D or H that they gather, "
        "which mostly come from a cache; a count is stored in three or four bytes."
    )


def scaling(section: dict) -> Iterator[str]:
    """Cost of a step at the ends of each axis, and the exponents."""
    yield from head(
        [
            "cost of one step against",
            "from",
            "to",
            "multiplicative: ms",
            "exponent",
            "Newton: ms",
            "exponent",
        ]
    )
    for axis, found in section["axes"].items():
        points = found["points"]
        cells = [axis, f"{points[0]['x']:g}", f"{points[-1]['x']:g}"]
        for step, value in found["exponents"].items():
            ends = (digits(1e3 * points[i][step]) for i in (0, -1))
            cells += [" to ".join(ends), f"{value:.2f}"]
        yield row(cells)
    at = ", ".join(f"{v:g} {k}" for k, v in section["default"].items())
    yield ""
    names = list(section["axes"])
    for step, most in EXPONENTS.items():
        found = [section["axes"][axis]["exponents"][step] for axis in names]
        above = [f"{n} {x:.2f}" for n, x, m in zip(names, found, most, strict=True) if x > m + 0.15]
        yield (
            f"- The cost of a {step} step should grow at most with the powers "
            f"{', '.join(f'{m} of {n}' for n, m in zip(names, most, strict=True))}: "
            f"{'above that are ' + ', '.join(above) if above else 'so it does'}."
        )
    yield f"- One at a time around {at}; an exponent of 1 is a cost in proportion."


def memory(section: dict) -> Iterator[str]:
    """The most memory held."""
    titles = ["MiB: peak (after the imports)"]
    yield from head(titles + [image_of(dose) for dose in section["doses"]])
    for name in section["doses"][0]["programs"]:
        cells = [name]
        for dose in section["doses"]:
            p = dose["programs"][name]
            cells.append(f"{p['peak']:.0f} ({p['imports']:.0f})")
        yield row(cells)


def precision(section: dict) -> Iterator[str]:
    """How far above the optimum float32 ends."""
    yield from head(
        [
            f"ends of Newton's method, {section['size']} × {section['size']} pixels",
            "nats above the polished optimum: median",
            "largest",
            "steps",
            "converged",
            "in the same optimum",
        ]
    )
    for dose in section["doses"]:
        n = len(dose["starts"])
        for dtype, s in dose["summary"].items():
            yield row(
                [
                    f"{image_of(dose)}, {dtype}",
                    f"{s['median gap']:.2g}",
                    f"{s['largest gap']:.2g}",
                    f"{s['median steps']:g}",
                    f"{s['converged']} of {n}",
                    f"{dose['same optimum']} of {n}",
                ]
            )

    yield ""
    for dose in section["doses"]:
        gaps = [start["float32"]["gap"] for start in dose["starts"]]
        good = sum(gap <= GAP_AIM for gap in gaps)
        met = "met" if good == len(gaps) else "NOT met"
        yield (
            f"- At {image_of(dose)} float32 ends within {GAP_AIM:g} nat of the optimum of float64 "
            f"on {good} of {len(gaps)} starts ({met})."
        )


def storage(section: dict) -> Iterator[str]:
    """Sparse over dense, by the share of filled channels."""
    points = section["points"]
    shares = [f"{p['share']:.0%} filled" for p in points]
    yield from head(["time of sparse counts over that of dense ones", *shares])
    for name in points[0]["ratios"]:
        yield row([f"`{name}`", *(f"{p['ratios'][name]:.2f}" for p in points)])
    yield ""
    yield (
        f"- {section['pixels']} pixels, {section['channels']} channels, {section['phases']} phases."
    )


def starts(section: dict) -> Iterator[str]:
    """Seconds of several starts, one after another and at once."""
    parts = list(next(iter(section["rows"].values())))
    yield from head([f"seconds of {section['starts']} starts", *parts])
    for kind, found in section["rows"].items():
        yield row([kind, *(digits(found[part]) for part in parts)])
    yield ""
    yield f"- {section['bins']} bins; the first call compiles."


def first(section: dict) -> Iterator[str]:
    """Seconds of a new process."""
    parts = list(section["rows"]["no cache"])
    yield from head(["seconds of a new process", *parts])
    for kind, found in section["rows"].items():
        yield row([kind, *(digits(found[part]) for part in parts)])
    yield ""
    for kind, most in FIRST_AIMS.items():
        found = section["rows"][kind]["import and fit"]
        met = "met" if found < most else "NOT met"
        yield f"- Import and first fit, {kind}: {found:.1f} s (aim: less than {most:g} s, {met})."
    size = section["size"]
    yield (
        f"- {size} × {size} pixels, {section['channels']} channels, "
        f"{section['counts per pixel']:g} counts per pixel; the table needs xarray and pandas. "
        "The part is 3 pixels smaller along each axis. *Joint*: W and H together by "
        "`VariableProjectionNewton`, without choices and without the question for mixtures."
    )


SECTIONS = {
    "iterations": ("Time per iteration", iterations),
    "optimum": ("Time to the optimum", optimum),
    "limits": ("The machine's limits", limits),
    "scaling": ("Scaling", scaling),
    "memory": ("Memory", memory),
    "precision": ("float32 and float64", precision),
    "storage": ("Sparse and dense counts", storage),
    "starts": ("Several starts", starts),
    "first": ("The first fit of a process", first),
}


def about(info: dict, seconds: float, sections: list[str]) -> Iterator[str]:
    """The machine and the circumstances of the sections of one run."""
    versions = info["versions"]
    espm = versions["espm environment"]
    others = f"espm {espm['espm']} with numpy {espm['numpy']}" if espm else "without espm"
    yield (
        f"- {', '.join(sections)}: {seconds:.0f} s. {info['date']}, {info['cpu']}, "
        f"{info['cores usable']} usable cores, device {info['jax device']}, "
        f"load {info['load before']:.1f} before. Threads: BLAS and "
        f"OpenMP {info['threads of BLAS and OpenMP']}, XLA {info['threads of XLA']}. jax "
        f"{versions['jax']}, scikit-learn {versions['scikit-learn']}, numpy {versions['numpy']}; "
        f"{others}."
    )


def lines(results: dict) -> Iterator[str]:
    """All tables as Markdown; what was the same for all sections comes once, at the end."""
    found = {name: results[name] for name in SECTIONS if name in results}
    busy = [n for n, s in found.items() if s["machine"]["busy"]]
    if busy:
        yield (
            "**Not to be quoted**: the machine was busy with other work before "
            f"{', '.join(busy)}, which slows programs that use all cores for every operation "
            "the most."
        )
    if any(s["quick"] for s in found.values()):
        yield "**A quick run**, which only shows that everything works."
    if len({s["run"] for s in found.values()}) > 1:
        yield "The sections come from several runs."
    for name, section in found.items():
        title, table = SECTIONS[name]
        yield from ("", f"### {title}", "", *table(section))
    runs = {s["run"]: s for s in found.values()}
    yield ""
    for number, one in runs.items():
        same = [s for s in found.values() if s["run"] == number]
        which = [n for n, s in found.items() if s["run"] == number]
        yield from about(one["machine"], sum(s["seconds"] for s in same), which)


def samples(results: dict) -> Iterator[list]:
    """Every number that was timed: section, counts per pixel, round or size, name, value, unit."""
    for name in ("iterations", "optimum"):
        for dose in results.get(name, {}).get("doses", []):
            for i, found in enumerate(dose["rounds"]):
                for program, value in found.items():
                    at = f"{dose['counts per pixel']:.2f}"
                    yield [name, at, f"round {i}", program, f"{value:.6g}", "s"]
    for dose in results.get("limits", {}).get("doses", []):
        for pass_name, found in dose["passes"].items():
            at = f"{dose['counts per pixel']:.2f}"
            yield ["limits", at, "", pass_name, f"{found['seconds']:.6g}", "s"]
    for axis, found in results.get("scaling", {}).get("axes", {}).items():
        for point in found["points"]:
            for step in found["exponents"]:
                yield ["scaling", "", f"{axis} {point['x']:g}", step, f"{point[step]:.6g}", "s"]
    for dose in results.get("memory", {}).get("doses", []):
        for program, found in dose["programs"].items():
            at = f"{dose['counts per pixel']:.2f}"
            yield ["memory", at, "", program, f"{found['peak']:.1f}", "MiB"]
    for dose in results.get("precision", {}).get("doses", []):
        for i, start in enumerate(dose["starts"]):
            for dtype in ("float32", "float64"):
                at = f"{dose['counts per pixel']:.2f}"
                gap = f"{start[dtype]['gap']:.6g}"
                yield ["precision", at, f"start {i}", dtype, gap, "nats"]


def write(results: dict, folder: pathlib.Path) -> None:
    """results.json, results.csv, the figures, and the tables between the README's markers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["section", "counts_per_pixel", "sample", "name", "value", "unit"])
        rows.writerows(samples(results))
    if "optimum" in results:
        figure_of_programs(results["optimum"], folder / "benchmark.png")
    if "scaling" in results:
        figure_of_scaling(results["scaling"], folder / "scaling.png")
    readme = folder / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        readme.write_text("\n".join([before + BEGIN, *lines(results), END]) + after)
    else:
        (folder / "tables.md").write_text("\n".join(lines(results)) + "\n")
