"""The page to draw on, in a real browser in front of a real server, whose models read what is drawn."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Request, Response, Route, expect, sync_playwright
from servers import Server, serving
from strokes import DRAWN, SHEET, curve, draw, on_screen

from digits.contract import CLASSES, SIDE
from runtimes.device import CPU
from runtimes.numpy_runtime import open_model

pytestmark = pytest.mark.slow

CONVOLUTIONS: Final = "torch-conv.onnx"  # which reads every drawing; the other model errs
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
KEY: Final = "a-key-of-the-page-0123456789"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server(drawn_home: Path) -> Iterator[Server]:
    with serving(drawn_home, {"SAMEDIGIT_BACKENDS": "numpy,onnx"}) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Debian's chromium is not installed, and CI must not skip: apt-get install chromium")
        pytest.skip("chromium is not installed: apt-get install chromium")
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=options)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens the page in a window of its own. What a script or the policy of the page complains of fails the test."""
    contexts, complaints = [], []

    def complain(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def open_it(port: int = server.data_port, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1240, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url(port)}/ui")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Open) -> Page:
    found = open_page()
    expect(found.locator("#body tr")).to_have_count(4)
    return found


def says(page: Page, row: str = CONVOLUTIONS) -> str:
    return page.locator(f"tr[data-row='{row}'] .said-digit").inner_text()


def expect_digit(page: Page, digit: int, row: str = CONVOLUTIONS) -> None:
    expect(page.locator(f"tr[data-row='{row}'] .said-digit")).to_have_text(str(digit))


def last_answer(page: Page, draws: Callable[[], None]) -> dict[str, Any]:
    """What /compare answered to the last of what `draws` draws, which the page shows."""
    found: list[Response] = []
    page.on("response", lambda response: found.append(response) if "/compare" in response.url else None)
    draws()
    answered(page)
    answer: dict[str, Any] = found[-1].json()
    return answer


def answered(page: Page) -> None:
    """Waits until nothing more is asked."""
    expect(page.locator("#rows")).to_have_attribute("aria-busy", "false")


def wait_until(page: Page, condition: str) -> None:
    """Until the page's script `condition` holds.

    Not wait_for_function: where the first answer is no, it asks again from inside the page, whose policy rightly forbids eval.
    """
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)  # ms
    raise AssertionError(f"still not so after 30 s: {condition}")


def comparisons(page: Page) -> list[Request]:
    """The requests to /compare from here on."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if "/compare" in request.url else None)
    return found


def picture(*drawings: Sequence[str], colours: tuple[str, str] = ("white", "black")) -> bytes:
    """A PNG of digits beside each other."""
    paper, ink = colours
    image = Image.new("RGB", (SHEET * len(drawings), SHEET), paper)
    pen = ImageDraw.Draw(image)
    for place, drawing in enumerate(drawings):
        for stroke in drawing:
            pen.line([(x + SHEET * place, y) for x, y in curve(stroke)], fill=ink, width=20, joint="curve")
    body = io.BytesIO()
    image.save(body, "PNG")
    return body.getvalue()


def hand_over(page: Page, event: str, body: bytes, media_type: str = "image/png") -> None:
    """Drops or pastes a file."""
    page.evaluate(
        """([event, body, type]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(body), (one) => one.charCodeAt(0))], "digit", { type }));
            const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
            const made = event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options);
            document.querySelector("#sheet").dispatchEvent(made);
        }""",
        [event, base64.b64encode(body).decode(), media_type],
    )


# Drawing


@pytest.mark.parametrize("digit", range(CLASSES))
def test_every_drawn_digit_is_read(page: Page, digit: int) -> None:
    for drawing in DRAWN[digit]:
        page.locator("#paper").press("c")
        expect_digit_is_blank(page)
        draw(page, drawing)
        expect_digit(page, digit)
        expect(page.locator("#times")).to_contain_text("Round trip")


def expect_digit_is_blank(page: Page) -> None:
    expect(page.locator(f"tr[data-row='{CONVOLUTIONS}'] .said-digit")).to_have_text("\u2013")


def test_a_row_says_what_the_server_answers(page: Page, server: Server) -> None:
    answers = last_answer(page, lambda: draw(page, DRAWN[4][1]))["answers"]
    expect_digit(page, 4)
    assert [answer["model"].split(":")[0] for answer in answers] == ["numpy-sigmoid"] * 2 + ["torch-conv"] * 2
    with server.client(server.data_port) as client:
        served = {one["model"]: one["backends"] for one in client.get("/models").json()["models"]}
    for answer in answers:
        row = page.locator(f"tr[data-row='{answer['recipe']}.{answer['backend']}']")
        expect(row.locator(".said-digit")).to_have_text(str(answer["digit"]))
        probabilities = [text.replace("\u00a0", " ") for text in row.locator("td.bars .unseen").all_text_contents()]
        assert probabilities == [f"{100 * one:.1f} %" for one in answer["probabilities"]]
        heights = row.locator(".bar").evaluate_all(
            "bars => bars.map((bar) => Number(getComputedStyle(bar).getPropertyValue('--probability')))"
        )
        np.testing.assert_allclose(heights, answer["probabilities"], atol=1e-4)
        expected = "not sure" if not answer["sure"] else f"{100 * answer['probability']:.1f} %"
        expect(row.locator(".belief")).to_have_text(expected.replace(" %", "\u00a0%"))
        accuracy = served[answer["model"]][answer["backend"]]["accuracy"]
        expect(row.locator(".accuracy")).to_have_text(f"{100 * accuracy:.2f} %")
        assert re.fullmatch(r"\d+(\.\d+)?\u00a0ms", row.locator(".time").inner_text())


def test_the_28_by_28_that_is_shown_is_the_one_the_models_got(page: Page) -> None:
    image = np.array(last_answer(page, lambda: draw(page, DRAWN[3][0]))["image"])
    assert image.shape == (SIDE, SIDE)
    shown = page.evaluate("[...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 28, 28).data]")
    np.testing.assert_array_equal(np.array(shown).reshape(SIDE, SIDE, 4)[..., 0], image)


def test_a_pen_draws_whatever_its_pressure(page: Page) -> None:
    devtools = page.context.new_cdp_session(page)
    points = on_screen(page, curve(DRAWN[2][0][0]))
    for place, (x, y) in enumerate(points):
        kind = "mousePressed" if place == 0 else "mouseReleased" if place == len(points) - 1 else "mouseMoved"
        options = {"pointerType": "pen", "force": place / len(points), "button": "left", "buttons": 1, "clickCount": 1}
        devtools.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **options})
    expect_digit(page, 2)


def test_a_finger_draws_on_a_phone_and_nothing_scrolls(open_page: Open) -> None:
    page = open_page(**PHONE)
    expect(page.locator("#body tr")).to_have_count(4)
    devtools = page.context.new_cdp_session(page)
    for stroke in DRAWN[4][0]:
        points = on_screen(page, curve(stroke))
        for place, (x, y) in enumerate(points):
            kind = "touchStart" if place == 0 else "touchMove"
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_digit(page, 4)
    assert page.evaluate("[scrollX, scrollY]") == [0, 0]


@pytest.mark.parametrize("width", [320, 360, 800, 1100])
def test_no_width_scrolls_sideways(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 740})
    expect(page.locator("#body tr")).to_have_count(4)
    draw(page, DRAWN[5][0])
    expect_digit(page, 5)
    page.locator("#body button").first.click()
    expect(page.locator("#why")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_finger_touches_is_44_pixels_large(open_page: Open) -> None:
    page = open_page(**PHONE)
    expect(page.locator("#body tr")).to_have_count(4)
    draw(page, DRAWN[0][0])
    expect_digit(page, 0)
    sizes = page.locator("button:visible, .button:visible").evaluate_all(
        "found => found.map((one) => [one.textContent.trim(), one.offsetWidth, one.offsetHeight])"
    )
    assert len(sizes) > 8
    assert [size for size in sizes if min(size[1:]) < 44] == []


def test_a_phone_offers_its_own_camera(open_page: Open) -> None:
    page = open_page(**PHONE)
    expect(page.locator("#capture-label")).to_be_visible()
    expect(page.locator("#camera")).to_be_hidden()
    assert page.locator("#capture").get_attribute("capture") == "environment"


# Keys


def test_the_keyboard_alone_draws_undoes_and_clears(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator("#paper")).to_be_focused()
    for key, times in (("ArrowLeft", 5), ("Space", 1), ("ArrowRight", 10)):
        for _ in range(times):
            page.keyboard.press(key)
    expect(page.locator("#announcement")).to_have_text("Drawing, 68 % across, 25 % down")
    for _ in range(8):
        for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
            page.keyboard.press(key)
    page.keyboard.press("Space")
    expect_digit(page, 7)
    expect(page.locator("#announcement")).to_contain_text("say")
    page.keyboard.press("u")
    expect(page.locator("#announcement")).to_have_text("Undone: 0 strokes left")
    expect(page.locator("#verdict")).to_have_text("Nothing is drawn yet.")


def test_two_arrows_held_together_draw_aslant(page: Page) -> None:
    page.locator("#paper").focus()
    page.keyboard.press("Space")
    page.keyboard.down("ArrowDown")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")  # with ArrowDown held
    page.keyboard.up("ArrowDown")
    expect(page.locator("#announcement")).to_have_text("Drawing, 18 % across, 61 % down")


def test_undo_takes_back_strokes_a_clearing_and_a_picture(page: Page) -> None:
    first, second = DRAWN[4][1]
    draw(page, [first])
    draw(page, [second])
    expect_digit(page, 4)
    page.get_by_role("button", name="Clear").click()
    expect_digit_is_blank(page)
    expect(page.get_by_role("button", name="Clear")).to_be_disabled()
    page.get_by_role("button", name="Undo").click()
    expect_digit(page, 4)
    page.set_input_files("#file", {"name": "6.png", "mimeType": "image/png", "buffer": picture(DRAWN[6][0])})
    expect_digit(page, 6)
    page.keyboard.press("Control+z")
    expect_digit(page, 4)
    for _ in range(2):
        page.keyboard.press("Backspace")
    expect_digit_is_blank(page)
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


# Pictures


def test_an_uploaded_picture_is_read(page: Page) -> None:
    body = picture(DRAWN[6][1], colours=("#223355", "#ffeecc"))
    page.set_input_files("#file", {"name": "6.png", "mimeType": "image/png", "buffer": body})
    expect_digit(page, 6)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_read(page: Page, event: str) -> None:
    hand_over(page, event, picture(DRAWN[3][1]))
    expect_digit(page, 3)


def test_a_large_picture_is_sent_smaller(page: Page) -> None:
    image = Image.open(io.BytesIO(picture(DRAWN[2][0]))).resize((4000, 4000))
    body = io.BytesIO()
    image.save(body, "JPEG")
    with page.expect_request("**/classify*") as request:
        page.set_input_files("#file", {"name": "2.jpg", "mimeType": "image/jpeg", "buffer": body.getvalue()})
    expect_digit(page, 2)
    assert request.value.headers["content-type"] == "image/jpeg"
    sent = request.value.post_data_buffer
    assert sent is None or Image.open(io.BytesIO(sent)).size == (2048, 2048)


def test_of_a_number_every_digit_is_boxed_and_can_be_chosen(page: Page) -> None:
    body = picture(DRAWN[4][0], DRAWN[0][0], DRAWN[7][0], DRAWN[2][0])
    page.set_input_files("#file", {"name": "4072.png", "mimeType": "image/png", "buffer": body})
    expect(page.locator("#verdict")).to_contain_text("The number reads 4072. Of its digit 1,")
    expect_digit(page, 4)
    boxes = page.locator("#found button")
    assert boxes.all_inner_texts() == list("4072")
    sheet = page.locator("#sheet").bounding_box()
    assert sheet is not None
    quarter = sheet["width"] / 4
    for place in range(4):
        box = boxes.nth(place).bounding_box()
        assert box is not None
        assert place * quarter < box["x"] - sheet["x"] + box["width"] / 2 < (place + 1) * quarter
    boxes.nth(2).click()
    expect_digit(page, 7)
    expect(page.locator("#verdict")).to_contain_text("Of its digit 3,")
    expect(boxes.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(boxes.nth(2)).to_be_focused()


def test_a_file_that_is_no_picture_is_refused_in_the_servers_words(page: Page) -> None:
    hand_over(page, "drop", b"just words, and no picture", "image/png")
    expect(page.locator("#trouble")).to_contain_text("Expected a picture")
    expect(page.locator("#invitation")).to_have_text("This browser cannot show the picture")
    draw(page, DRAWN[1][0])
    expect_digit(page, 1)
    expect(page.locator("#trouble")).to_be_empty()


def test_a_camera_takes_a_picture(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("dialog", name="Take a picture")).to_be_visible()
    wait_until(page, "document.querySelector('#video').videoWidth > 0")
    with page.expect_request("**/classify*") as request:
        page.get_by_role("button", name="Take").click()
    assert request.value.headers["content-type"] == "image/jpeg"
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("document.querySelector('#video').srcObject") is None  # it looks no more
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()


# Examples


def test_an_example_shows_its_true_label_and_what_the_models_read(page: Page, server: Server) -> None:
    with server.client(server.data_port) as client:
        examples = client.get("/ui/examples").json()["examples"]
    buttons = page.locator("#examples button")
    expect(buttons).to_have_count(len(examples))
    assert len(examples) > 3
    for place in (0, len(examples) - 1):
        example = examples[place]
        buttons.nth(place).click()
        expect(page.locator("#verdict")).to_contain_text(f"The true label is {example['label']}.")
        for tag, digit in example["read"].items():
            expect_digit(page, digit, f"{tag.split(':')[0]}.numpy")
    page.locator("#paper").press("c")
    expect(page.locator("#verdict")).to_have_text("Nothing is drawn yet.")


def test_without_examples_a_sentence_says_so(open_page: Open, browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("**/ui/examples", lambda route: route.fulfill(json={"examples": []}))
    page.goto(f"{server.url(server.data_port)}/ui")
    expect(page.locator("#no-examples")).to_be_visible()
    context.close()


# Why


def test_why_lays_a_heat_map_over_the_digit_and_says_it_in_words(page: Page) -> None:
    draw(page, DRAWN[7][0])
    answered(page)
    expect_digit(page, 7)
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    button = page.locator(f"tr[data-row='{CONVOLUTIONS}'] button")
    assert button.get_attribute("aria-label") == "Why does torch-conv on onnx say 7?"
    button.click()
    expect(page.locator("#why-text")).to_have_text(
        re.compile(r"torch-conv on onnx reads 7 most of all from the [a-z ]+\.( Against it: the [a-z ]+\.)?")
    )
    assert len(asked) == 1
    assert re.search(r"/v2/models/torch-conv\.onnx/versions/\w+/infer$", asked[0].url)
    assert "inference-header-content-length" in asked[0].headers
    expect(page.locator(".legend")).to_be_visible()
    expect(page.locator("#announcement")).to_contain_text("most of all")
    covered = "[...document.querySelector('#overlay').getContext('2d').getImageData(0, 0, 840, 840).data].some(Boolean)"
    wait_until(page, covered)
    draw(page, DRAWN[7][1])  # another drawing has other reasons
    expect(page.locator("#why")).to_be_hidden()
    wait_until(page, f"!({covered})")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_reasons_are_what_hiding_takes_from_the_log_odds(page: Page, drawn_home: Path, server: Server) -> None:
    image = np.array(last_answer(page, lambda: draw(page, DRAWN[4][0]))["image"], np.uint8)
    with server.client(server.data_port) as client:
        (tag,) = [one["model"] for one in client.get("/models").json()["models"] if "conv" in one["model"]]
    found = page.evaluate(
        """async ([version, image]) => {
            const { occlusion } = await import("/ui/server.js");
            return [...(await occlusion("torch-conv.numpy", version, Uint8Array.from(image), 4))];
        }""",
        [tag.split(":")[1], image.ravel().tolist()],
    )

    (file,) = (drawn_home / "models" / "torch-conv").glob("*/model.npz")
    model = open_model(file, device=CPU)

    def log_odds(images: Any) -> Any:
        probabilities = model.predict(images).astype(np.float64)
        return np.log(probabilities[:, 4]) - np.log(np.delete(probabilities, 4, axis=1).sum(axis=1))

    padded = np.pad(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) + 1, 3)  # 0: outside
    patches = np.lib.stride_tricks.sliding_window_view(padded, (4, 4)).reshape(-1, 16)
    hides = np.zeros((len(patches), SIDE * SIDE + 1), bool)
    np.put_along_axis(hides, patches, True, axis=1)
    hides = hides[:, 1:]  # [961, 784]
    hidden = np.where(hides, 0, image.ravel()).astype(np.uint8).reshape(-1, SIDE, SIDE)
    drops = log_odds(image[None]) - log_odds(hidden)
    expected = (drops[:, None] * hides).sum(axis=0) / hides.sum(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


# What it costs


def test_a_short_stroke_costs_one_request(page: Page) -> None:
    # A busy machine may take long for what a hand does at once: a hundred times as long is still short.
    page.evaluate("const now = performance.now.bind(performance); performance.now = () => now() / 100")
    asked = comparisons(page)
    for number, stroke in enumerate(DRAWN[7][1], 1):
        draw(page, [stroke])
        answered(page)
        assert len(asked) == number
    expect_digit(page, 7)


def test_a_long_stroke_is_asked_about_on_the_way_one_request_at_a_time(page: Page) -> None:
    asked = comparisons(page)
    under_way, most = 0, 0

    def began(request: Request) -> None:
        nonlocal under_way, most
        under_way += "/compare" in request.url
        most = max(most, under_way)

    def ended(request: Request) -> None:
        nonlocal under_way
        under_way -= "/compare" in request.url

    page.on("request", began)
    page.on("requestfinished", ended)
    (x, y), *rest = on_screen(page, curve(DRAWN[8][0][0]))
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(x, y)
        page.wait_for_timeout(20)
    on_the_way = len(asked)
    page.mouse.up()
    expect_digit(page, 8)
    for _ in range(100):  # the last question waits for the answer to the one before, which a busy machine may keep
        if len(asked) > on_the_way:
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)
    assert 1 <= on_the_way <= 10  # 80 moves in at least 1.6 s, and 0.6 s between two
    assert len(asked) == on_the_way + 1
    assert most == 1


def test_what_is_stale_never_queues(page: Page) -> None:
    held: list[Route] = []
    holding = True
    page.route("**/compare*", lambda route: held.append(route) if holding else route.continue_())
    draw(page, DRAWN[1][0])
    page.wait_for_timeout(200)
    for stroke in (*DRAWN[5][0], *DRAWN[7][0], *DRAWN[3][0]):
        draw(page, [stroke])
    page.wait_for_timeout(200)
    assert len(held) == 1  # four more strokes wait as one
    held[0].continue_()
    page.wait_for_timeout(600)
    assert len(held) == 2
    page.locator("#paper").press("c")  # nobody wants that answer any more
    draw(page, DRAWN[2][0])
    page.wait_for_timeout(300)
    assert len(held) == 3
    assert held[1].request.failure is not None  # it was told so
    holding = False
    held[2].continue_()
    expect_digit(page, 2)


def test_the_page_is_small_and_asks_no_other_host(open_page: Open, server: Server) -> None:
    page = open_page()
    expect(page.locator("#body tr")).to_have_count(4)
    with server.client(server.data_port) as client:
        files = [
            "/ui",
            *page.evaluate("performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)"),
        ]
        sizes = {
            name: len(client.get(name).content) for name in files if name.startswith("/ui") and name != "/ui/examples"
        }
        policy = client.get("/ui").headers["content-security-policy"]
        text = "".join(client.get(name).text for name in sizes)
    assert set(sizes) == {"/ui", "/ui/style.css", "/ui/page.js", "/ui/server.js", "/ui/sheet.js"}
    assert sum(sizes.values()) < 60_000, sizes
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}  # SVG's name


# Keys of the server, and troubles


def test_a_server_with_keys_is_asked_with_one_that_is_kept_for_the_session_only(
    drawn_home: Path, open_page: Open
) -> None:
    with serving(drawn_home, {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_KEYS": KEY}) as keyed:
        page = open_page(keyed.data_port)
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        expect(dialog).to_be_visible()
        page.get_by_role("textbox", name="Key").fill("a-wrong-key-0123456789")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server refused that key.")
        page.get_by_role("textbox", name="Key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#body tr")).to_have_count(2)
        draw(page, DRAWN[0][0])
        expect_digit(page, 0, "torch-conv.numpy")
        assert page.evaluate("[localStorage.length, document.cookie, {...sessionStorage}]") == [
            0,
            "",
            {"samedigit-key": KEY},
        ]
        assert KEY not in page.url

        other = open_page(keyed.data_port)
        expect(other.get_by_role("dialog")).to_be_visible()
        other.get_by_role("button", name="Cancel").click()
        expect(other.locator("#trouble")).to_contain_text("The server answers only with a key.")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda route: route.abort("connectionrefused"), "The server does not answer."),
        (
            lambda route: route.fulfill(status=503, json={"error": "Busy."}),
            "The server is busy. Ask again in a moment.",
        ),
        (
            lambda route: route.fulfill(status=500, json={"error": "?"}),
            "The server failed to answer; its log says why.",
        ),
        (lambda route: route.fulfill(status=502, body="<html>"), "The server failed to answer; its log says why."),
        (lambda route: route.fulfill(status=413, json={"error": "Too much."}), "Too much."),
    ],
    ids=["gone", "busy", "failed", "a proxy", "refused"],
)
def test_trouble_is_one_sentence_and_the_drawing_stays(
    page: Page, answer: Callable[[Route], None], sentence: str
) -> None:
    page.route("**/compare*", answer)
    draw(page, DRAWN[9][0])
    answered(page)
    trouble = page.locator("#trouble")
    expect(trouble.locator("span")).to_have_text(sentence)
    assert trouble.get_attribute("role") == "status"  # read out, politely
    expect_digit_is_blank(page)
    page.unroute("**/compare*")
    page.get_by_role("button", name="Ask again").click()
    expect_digit(page, 9)
    expect(trouble).to_be_empty()


# How it looks, and to whom it does not


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(open_page: Open, scheme: str, options: dict[str, Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(color_scheme=scheme, **options)
    expect(page.locator("#body tr")).to_have_count(4)

    def finds_nothing() -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    finds_nothing()
    draw(page, DRAWN[8][1])  # which the plain model misreads
    expect_digit(page, 8)
    page.locator("#body button").last.click()
    expect(page.locator("#why")).to_be_visible()
    finds_nothing()
    body = picture(DRAWN[4][0], DRAWN[0][0])
    page.set_input_files("#file", {"name": "40.png", "mimeType": "image/png", "buffer": body})
    expect_digit(page, 4)
    finds_nothing()
    page.route("**/compare*", lambda route: route.abort())
    draw(page, DRAWN[1][0])
    answered(page)
    expect(page.locator("#trouble")).not_to_be_empty()
    finds_nothing()
    page.evaluate("document.querySelector('#key-dialog').showModal()")
    finds_nothing()


def test_dark_and_light_differ_but_for_what_the_models_see(open_page: Open) -> None:
    shown = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        draw(page, DRAWN[5][1])
        answered(page)
        shown[scheme] = page.evaluate(
            """() => {
                const of = (id) => [...document.querySelector(id).getContext("2d").getImageData(0, 0, 28, 28).data];
                const ground = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
                return { ground: Math.max(...ground), seen: of("#seen") };
            }"""
        )
    assert shown["light"]["ground"] > 200
    assert shown["dark"]["ground"] < 50
    assert shown["light"]["seen"] == shown["dark"]["seen"]


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_jumps(browser: Browser, server: Server, options: dict[str, Any]) -> None:
    context = browser.new_context(**options)
    context.add_init_script(
        """window.shifts = [];
        new PerformanceObserver((list) => shifts.push(...list.getEntries().map((one) => one.value)))
            .observe({ type: "layout-shift", buffered: true });"""
    )
    page = context.new_page()
    page.goto(f"{server.url(server.data_port)}/ui")
    expect(page.locator("#body tr")).to_have_count(4)
    draw(page, DRAWN[8][1])
    expect_digit(page, 8)
    page.locator("#paper").press("c")
    page.wait_for_timeout(200)
    assert sum(page.evaluate("shifts")) < 0.02
    context.close()


def test_who_wants_less_motion_gets_none(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    expect(page.locator("#body tr")).to_have_count(4)
    durations = page.evaluate(
        "[...document.querySelectorAll('.bar')].map((bar) => getComputedStyle(bar, '::after').transitionDuration)"
    )
    assert set(durations) == {"0s"}


def test_a_screen_reader_gets_a_table_with_names(page: Page) -> None:
    draw(page, DRAWN[6][0])
    expect_digit(page, 6)
    table = page.get_by_role("table", name="How probable each model holds each digit")
    expect(table.get_by_role("columnheader", name="6", exact=True)).to_be_attached()
    row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name="torch-conv onnx"))
    expect(row).to_have_count(1)
    expect(row.get_by_role("cell")).to_have_count(14)
    expect(page.locator("#announcement")).to_contain_text("say 6")
    expect(page.get_by_role("application", name="Sheet to draw on")).to_be_visible()


def test_the_page_is_there_without_a_key_and_its_answers_are_not(server: Server) -> None:
    answer = httpx.get(f"{server.url(server.data_port)}/ui", trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
