"""A real Chromium for tests, driven by Selenium: one for a module, ended with it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from busbar.cli.demo.page import FLAGS
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.pace import bound

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


def need_chromium() -> tuple[str, str]:
    """The paths of browser and driver; skips a test where they are not installed."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("the programs chromium and chromedriver are not installed")
    return CHROMIUM, DRIVER


class Browser:
    """One page of it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    # --- looking

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """The text of the first that is shown, empty where there is none."""
        found = self.script("return document.querySelector(arguments[0])?.textContent ?? ''", css)
        return str(found).strip()

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 20) -> Any:
        """Wait until the page shows something; it changes by itself."""
        end = time.monotonic() + bound(timeout)
        while True:
            try:
                if value := condition():
                    return value
            except StaleElementReferenceException:
                pass
            assert time.monotonic() < end, f"{what}: the page shows\n{self.text('body')[:3000]}"
            time.sleep(0.05)

    def shows(self, css: str, part: str, timeout: float = 20) -> str:
        """Wait until the first of these has a text with this part."""
        self.until(lambda: part in self.text(css), f"{part!r} in {css}", timeout)
        return self.text(css)

    def status(self, key: str, *wanted: str, timeout: float = 20) -> str:
        """Wait until an object, such as `worker/edge/web-1`, has one of these states."""
        css = f'[data-key="{key}"] [data-field="status"]'
        self.until(lambda: self.text(css) in wanted, f"{key} is {wanted}", timeout)
        return self.text(css)

    # --- doing

    def open(self, path: str = "/") -> None:
        self.driver.get(self.url.rstrip("/") + path)

    def click(self, css: str) -> None:
        self.until(lambda: self.all(css), css)
        self.all(css)[0].click()

    def type(self, *keys: str) -> None:
        """Type where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """The text of what has the focus."""
        return str(self.script("return document.activeElement.textContent")).strip()

    def has_focus(self, element: str) -> None:
        """Wait until it has: a page that has been loaded gives it a moment later."""
        self.until(
            lambda: self.script("return document.activeElement?.id") == element, f"the focus is on {element}"
        )

    def sign_in(self, user: str, password: str) -> None:
        """Sign in by the keyboard, as somebody else than before."""
        self.driver.delete_all_cookies()
        self.open("/signin")
        self.has_focus("user")
        self.type(user, Keys.TAB, password, Keys.ENTER)

    def picture(self, file: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Take a picture, as a screen of this size shows it."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        file.write_bytes(self.driver.get_screenshot_as_png())
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@contextmanager
def browser(url: str, folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    program, service = need_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, "--window-size=1280,900", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options, webdriver.ChromeService(service, log_output=str(folder / "driver.log"))
    )
    try:
        driver.set_page_load_timeout(bound(20))
        yield Browser(driver, url)
    finally:
        driver.quit()
