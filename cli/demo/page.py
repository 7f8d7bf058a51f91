"""The part of the demonstration with the page of the realm: its address, and a picture of it."""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ..context import read_up
from . import clients
from .stage import Stage, check

WEB: Final = "starlette"
"""Of the extra 'web': without it `busbar up` serves no page."""
MISSING: Final = "The extra 'web' is not installed: the page of the realm is left out."
NO_PICTURE: Final = "no picture: that takes selenium (the extra 'dev'), chromium and chromium-driver"
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--disable-quic",
)  # fmt: skip
SIZE: Final = (1060, 760)
SHOWN_S: Final = 20.0
"""Bound of each wait for the browser, seconds."""


def served() -> bool:
    """Whether the page can be served here."""
    return find_spec(WEB) is not None


async def page(stage: Stage, picture: Path | None) -> None:
    """Look at the page as a person would, and keep what it shows."""
    if not served():
        print(f"\n{MISSING}")
        return
    async with stage.chapter("The page of the realm shows all of it") as facts:
        url = read_up(stage.state)["page"]
        check("Busbar" in await clients.http_text(f"{url.rstrip('/')}/signin"), "the page is another")
        stage.say(f"{url} (while it runs; sign in as admin)")
        facts.append(url)
        if picture is None:
            return
        programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
        if None in programs or find_spec("selenium") is None:
            stage.say(NO_PICTURE)
            return
        password = (stage.state / "secrets" / "admin").read_text().strip()
        # Chromium makes sockets there; below a long TMPDIR their paths would be too long.
        with TemporaryDirectory(prefix="busbar-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            problem = await asyncio.to_thread(_take, picture, url, password, folder, programs)
        stage.say(f"no picture: {problem}" if problem else f"a picture of it: {picture}")


def _take(picture: Path, url: str, password: str, folder: str, programs: list[Any]) -> str | None:
    """Take it; why not, where the browser can't."""
    from selenium.common.exceptions import WebDriverException

    try:
        _drive(picture, url, password, folder, programs)
    except WebDriverException as error:
        return str(error.msg).splitlines()[0]
    return None


def _drive(picture: Path, url: str, password: str, folder: str, programs: list[Any]) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(flag)
    env = {**os.environ, "TMPDIR": folder}
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1], env=env))
    try:
        driver.set_page_load_timeout(SHOWN_S)
        driver.get(f"{url.rstrip('/')}/signin")
        driver.find_element(By.ID, "user").send_keys("admin")
        password_box = driver.find_element(By.ID, "password")
        password_box.send_keys(password)
        password_box.submit()
        worker = '[data-key="worker/edge/web-2"]'
        WebDriverWait(driver, SHOWN_S).until(lambda d: d.find_elements(By.CSS_SELECTOR, worker))
        driver.find_element(By.CSS_SELECTOR, f"{worker} button.open").click()
        WebDriverWait(driver, SHOWN_S).until(lambda d: d.find_element(By.ID, "lines").text)
        picture.write_bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()
