"""espm in an environment of its own, spoken to through pipes."""

import json
import pathlib
import statistics
import subprocess

from scene import Scene
from timing import Program

HERE = pathlib.Path(__file__).resolve().parent


class EspmWorker:
    """A process that answers commands; see `espm_worker.py`."""

    def __init__(self, python: pathlib.Path):
        self._process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "espm_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions = self._answer()["ready"]

    def ask(self, **command) -> dict:
        """One command, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def run(self, scene: Scene, path: pathlib.Path, dtype: str, iterations: int) -> dict:
        """Some iterations from the scene's start."""
        return self.ask(
            scene=str(path), scan_shape=scene.scan_shape, dtype=dtype, iterations=iterations
        )

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("espm ended unexpectedly; try its Python with espm_worker.py by hand.")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process, which frees its memory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def espm(worker: EspmWorker, scene: Scene, path: pathlib.Path, dtype: str, n: int) -> Program:
    """Seconds of one pass of espm's loop, and of the updates alone."""
    label = f"espm, {dtype}"

    def sample():
        answer = worker.run(scene, path, dtype, n)
        if answer["dtype"] != dtype:
            raise RuntimeError(f"espm worked in {answer['dtype']}.")
        found = {label: statistics.median(answer["iteration"])}
        return found | {f"{label}, updates alone": statistics.median(answer["updates"])}

    return Program(sample)
