"""Pages in a real browser, Debian's Chromium without a window. `browser.open(page, 390, 844)` gives its driver.

The fixture `browser` is in `conftest.py`; tests that ask for it are skipped where no Chromium is installed.
`.ci/system` installs it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root, where Chromium's sandbox does not work
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One Chromium for all tests. A context manager."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.width = 0

    def open(self, page: str | Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> Any:
        """Show a file or an address in a window of this size; the Selenium driver, to look and click with."""
        self.width = width
        media = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get_log("browser")  # drop the messages of an earlier page
        self.driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)
        return self.driver

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def sideways(self) -> int:
        """By how many pixels the page is wider than its window."""
        # Not than `innerWidth`: a phone's browser zooms out, and that grows with the page.
        return int(self.driver.execute_script("return document.documentElement.scrollWidth")) - self.width

    def close(self) -> None:
        self.driver.quit()
