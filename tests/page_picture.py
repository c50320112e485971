"""Draw the service's page, light and dark side by side, as Chromium shows it with an answer and what speaks for it.

    python tests/page_picture.py runs/flowers photo.jpg docs/page.webp [--width 420] [--phone]

Needs Chromium, its driver and selenium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def served(models: Any, **told: Any) -> Iterator[tuple[str, int]]:
    """(host, port) of the service, run in this process."""
    import keras_cnn as kc
    from keras_cnn.deploy import listening

    server = listening.server(kc.service(models, **told), (told.get("limits") or kc.Limits()).seconds)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield held.getsockname()
        server.should_exit = True
        thread.join(20)


@contextmanager
def browser(*arguments: str) -> Iterator[Any]:
    """Chromium without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", *arguments):
        options.add_argument(argument)
    options.binary_location = BROWSER or "chromium"
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield chromium
    finally:
        chromium.quit()


def shots(address: tuple[str, int], photo: Path, width: int, scale: float, phone: bool) -> list[bytes]:
    """PNGs of the whole page, light and dark."""
    import base64

    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    made = []
    with browser() as chromium:
        wait = WebDriverWait(chromium, 120)
        for scheme in ("light", "dark"):
            screen = {"width": width, "height": 300, "deviceScaleFactor": scale, "mobile": phone}
            chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            chromium.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            chromium.get("http://{}:{}/".format(*address))
            chromium.find_element(By.ID, "file").send_keys(str(photo.resolve()))
            why = chromium.find_element(By.ID, "why")
            wait.until(lambda _, why=why: why.is_enabled())
            chromium.execute_script("arguments[0].click()", why)
            wait.until(lambda _: chromium.execute_script("return document.getElementById('picture').naturalWidth > 0"))
            wait.until(lambda _, why=why: why.is_enabled())
            time.sleep(0.5)  # the bars have grown
            told = {"captureBeyondViewport": True}
            made.append(base64.b64decode(chromium.execute_cdp_cmd("Page.captureScreenshot", told)["data"]))
    return made


def main() -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=520, help="of the window, in CSS pixels")
    parser.add_argument("--scale", type=float, default=1.5, help="pixels of the picture for each of them")
    parser.add_argument("--phone", action="store_true", help="as a phone shows it")
    wish = parser.parse_args()
    with served(wish.model) as address:
        sides = [
            Image.open(io.BytesIO(shot)).convert("RGB")
            for shot in shots(address, wish.photo, wish.width, wish.scale, wish.phone)
        ]
    whole = Image.new("RGB", (sum(side.width for side in sides), max(side.height for side in sides)))
    for i, side in enumerate(sides):
        whole.paste(side, (i * sides[0].width, 0))
    whole.save(wish.out, quality=82, method=6)
    print(f"{wish.out}: {whole.width}x{whole.height}, {wish.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
