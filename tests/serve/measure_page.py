"""How quick the page is in Chromium: `python -m tests.serve.measure_page [PYTHON]`.

PYTHON is that of an environment with the package; the service runs in an empty folder.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.serve.browsing import Visit, chromium, show_hundred
from tests.serve.service import Service

# Each turn waits for the frame in which the change is painted; the answer has milliseconds.
FRAMES = """([change, turns]) => new Promise((done) => {
  const apply = new Function("turn", change);
  const times = [];
  const next = (turn) => {
    if (turn === turns) return done(times);
    const start = performance.now();
    apply(turn);
    requestAnimationFrame(() => setTimeout(() => {
      times.push(performance.now() - start);
      next(turn + 1);
    }));
  };
  requestAnimationFrame(() => next(0));
})"""
NOTHING = ""
POINTER = """
  const canvas = document.getElementById("overlay");
  const box = canvas.getBoundingClientRect();
  const [x, y] = [(turn % 10 + 0.5) / 10, (Math.floor(turn / 10) % 10 + 0.5) / 10];
  canvas.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerType: "mouse",
    clientX: box.left + x * box.width, clientY: box.top + y * box.height }));"""
SLIDER = """
  const slider = document.getElementById("%s");
  slider.value = turn %% 100;
  slider.dispatchEvent(new Event("input", { bubbles: true }));"""


def processor(service: Service) -> float:
    """Seconds of processor time that the service and the model's process have had."""
    ticks = 0
    for process in (service.process.pid, *service.workers()):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return round(ticks / os.sysconf("SC_CLK_TCK"), 1)


def middle(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(ordered[len(ordered) // 2], 1),
        "p95_ms": round(ordered[int(0.95 * len(ordered))], 1),
    }


def main() -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_1_min": round(os.getloadavg()[0], 1)}
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    home = dict(os.environ)
    if python != sys.executable:
        home.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        start = time.monotonic()
        service = Service(Path(folder), python=python, environment=home)
        found["ready_s"] = round(time.monotonic() - start, 1)
        visit = Visit(browser, service.url)
        page = visit.open()
        page.click(".example >> nth=0")
        page.wait_for_selector(".with-result")
        found["first_example_s"] = round(time.monotonic() - start, 1)
        found["first_example_processor_s"] = processor(service)
        visit.close()
        paints = []
        for _ in range(5):
            visit = Visit(browser, service.url)
            page = visit.open()
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            paints.append(round(page.evaluate(paint)))
            visit.close()
        found["first_contentful_paint_ms"] = paints
        visit = Visit(browser, service.url)
        page = visit.open()
        show_hundred(page)
        changes = {"nothing": NOTHING, "pointer": POINTER}
        changes |= {name: SLIDER % name for name in ("threshold", "opacity")}
        found["hundred_segments_a_frame"] = {
            name: middle(page.evaluate(FRAMES, [change, 100])) for name, change in changes.items()
        }
        visit.close()
        service.stop()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(), indent=1) + "\n")
