"""How soon is the page there? First paint and readiness from a file, in headless Chromium.

    circuitbench leaderboard RECORDS --format html --out site
    python benchmarks/page.py site/index.html

Prints the size of the shell, and the median over several loads of the first contentful paint and
of DOMContentLoaded, in milliseconds. Needs chromium and chromedriver on the path.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from selenium import webdriver

FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-sync")
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
READY = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="index.html of a leaderboard")
    parser.add_argument("--repeat", type=int, default=5, help="loads")
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    if not page.is_file():
        parser.error(f"no page at {arguments.page}")
    driver = shutil.which("chromedriver")
    if driver is None:
        parser.error("needs chromium and chromedriver")
    found = [load(page, driver) for _ in range(arguments.repeat)]
    paint, ready = (statistics.median(times) for times in zip(*found, strict=True))
    print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB")
    print(f"first paint {paint:.0f} ms, ready {ready:.0f} ms (median of {arguments.repeat})")


def load(page: Path, driver: str) -> tuple[float, float]:
    """First paint and readiness of one load in a browser started for it, in milliseconds."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            browser.get(f"file://{page}")
            while (paint := browser.execute_script(PAINT)) is None:
                time.sleep(0.01)
            return float(paint), float(browser.execute_script(READY))
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
