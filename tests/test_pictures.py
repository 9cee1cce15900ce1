"""/classify, /compare and the page as their users meet them: real files against a real server, on both its ports."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
import pytest
from conftest import bentoml_home
from PIL import Image, ImageDraw
from servers import Server, body, read_answer, serving
from small_models import keep

from digits.confidence import Confidence
from digits.misread import Misread
from serving.errors import Kind, RequestError
from serving.messages import Exchange, Head
from serving.page import find_examples
from serving.pictures import Pictures
from serving.settings import read_settings

MAX_PIXELS: Final = 4_000_000
MAX_BODY: Final = 2_000_000
SURE: Final = Confidence(temperature=1.0, threshold=0.9, held_out=1, accepted=1, accepted_correct=1, total=1)
UNSURE: Final = Confidence(temperature=50.0, threshold=0.9, held_out=1, accepted=1, accepted_correct=1, total=1)


def seven(size: tuple[int, int] = (120, 160), *, kind: str = "PNG", paper: int = 255, ink: int = 0) -> bytes:
    """A file that shows a 7 in the middle of paper."""
    picture = Image.new("L", size, paper)
    width, height = size
    corners = [(width * 0.3, height * 0.2), (width * 0.7, height * 0.2), (width * 0.45, height * 0.8)]
    ImageDraw.Draw(picture).line(corners, fill=ink, width=max(2, width // 12))
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def misread(places: list[int], labels: list[int], digits: list[int]) -> Misread:
    images = np.stack([np.full((28, 28), place, np.uint8) for place in places])
    return Misread(np.array(places), images, np.array(labels, np.uint8), np.array(digits, np.uint8))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that always answer the same: `first` 3, `second` 5 and reads other digits better, of `third` two versions."""
    with bentoml_home(tmp_path_factory.mktemp("bentoml")) as home:
        keep("first", 3, correct=9900, confidence=UNSURE, misread=misread([1, 2, 3], [0, 0, 0], [3, 3, 3]))
        keep("second", 5, beyond=(9000,), confidence=SURE, misread=misread([2, 3, 4], [0, 0, 9], [5, 3, 5]))
        keep("third", 7, beyond=(8000,))
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    environment = {
        "SAMEDIGIT_BACKENDS": "numpy",
        "SAMEDIGIT_MAX_PIXELS": str(MAX_PIXELS),
        "SAMEDIGIT_MAX_BODY_BYTES": str(MAX_BODY),
        "SAMEDIGIT_DEADLINE_MS": "60000",
        "SAMEDIGIT_MAX_PICTURES": "32",
        "SAMEDIGIT_ACCESS_LOG": "-",
    }
    with serving(home, environment) as found:
        yield found


@pytest.fixture(params=["api", "data"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with server.client(server.port if request.param == "api" else server.data_port) as found:
        yield found


slow = pytest.mark.slow

# How clients send a picture


@slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_file_of_every_kind_is_read_raw_and_as_a_form(kind: str, client: httpx.Client) -> None:
    picture = seven(kind=kind)
    raw = client.post("/classify", content=picture, headers={"content-type": f"image/{kind.lower()}"})
    form = client.post("/classify", files={"anything": ("../x\r\n.png", picture)})
    assert (raw.status_code, form.status_code) == (200, 200), raw.text + form.text
    assert raw.json() == form.json()
    (found,) = raw.json()["predictions"]
    left, top, right, bottom = found["box"]
    assert 20 <= left < 45 <= 75 <= right <= 100
    assert 20 <= top < 45 <= 115 <= bottom <= 140


@slow
def test_curl_s_ways_to_send_a_file_all_work(client: httpx.Client, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    file = tmp_path / "seven.png"
    file.write_bytes(seven())
    url = f"{client.base_url}/classify"

    def curl(*arguments: str) -> Any:
        done = subprocess.run(["curl", "-s", "--noproxy", "*", *arguments], capture_output=True, timeout=30, check=True)
        return httpx.Response(200, content=done.stdout).json()

    answers = [
        curl(url, "-F", f"file=@{file}"),
        curl(url, "-F", f'file=@{file};type=text/plain;filename="a.b"'),
        curl(url, "--data-binary", f"@{file}"),  # application/x-www-form-urlencoded
        curl(url, "--data-binary", f"@{file}", "-H", "Content-Type: image/png"),
        curl(url, "--data-binary", f"@{file}", "-H", "Content-Type:"),
        curl(url, "-T", str(file), "-X", "POST"),
        curl(url, "-F", f"=@{file}"),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["predictions"][0]["digit"] == 5
    text = curl(url, "-d", f"@{file}")
    assert text["error"].endswith(
        "With curl: --data-binary @picture.png, not -d, which changes the bytes; or -F file=@picture.png."
    )
    field = curl(url, "-F", "file=hello")
    assert field["error"].endswith("with curl: -F file=@picture.png, with the @.")


# What is answered


@slow
def test_without_a_name_the_model_answers_that_reads_other_digits_best(client: httpx.Client) -> None:
    answer = client.post("/classify", content=seven()).json()
    assert answer["model"].startswith("second:")
    assert answer["backend"] == "numpy"
    (found,) = answer["predictions"]
    assert found.keys() == {"digit", "sure", "probability", "probabilities", "box"}
    assert (found["digit"], found["sure"]) == (5, True)


@slow
@pytest.mark.parametrize("name", ["first", "first.numpy"])
def test_a_model_is_asked_by_its_recipe_with_a_backend_or_without(name: str, client: httpx.Client) -> None:
    answer = client.post("/classify", params={"model": name, "image": "true"}, content=seven()).json()
    assert answer["model"].startswith("first:")
    (found,) = answer["predictions"]
    assert (found["digit"], found["sure"]) == (3, False)  # at its card's temperature
    assert 0.1 < found["probability"] < 0.2
    image = np.array(found["image"])
    assert image.shape == (28, 28)
    assert image.max() == 255
    assert image[:4].max() == 0


@slow
def test_comparing_asks_every_model_for_a_picture_or_an_image(client: httpx.Client) -> None:
    picture = client.post("/compare?image=true", content=seven())
    assert picture.status_code == 200, picture.text
    answer = picture.json()
    rows = [(row["recipe"], row["backend"], row["digit"], row["sure"]) for row in answer["answers"]]
    assert rows == [("first", "numpy", 3, False), ("second", "numpy", 5, True), ("third", "numpy", 7, None)]
    assert [row["accuracy"] for row in answer["answers"]] == [0.99, 0.9, 0.9]
    assert all(0 < row["run_ms"] < 1000 for row in answer["answers"])
    assert answer["note"] == "asked one after another"
    again = client.post("/compare", json={"images": [answer["image"]]}).json()
    assert again["box"] is None
    assert [row["probabilities"] for row in again["answers"]] == [row["probabilities"] for row in answer["answers"]]


# What is refused


@slow
@pytest.mark.parametrize("path", ["/classify", "/compare"])
@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"", 400, "The picture is empty"),
        (b"hello", 415, "Expected a picture: PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "Expected a picture: PNG, JPEG"),
        (b"%PDF-1.7\n%\xe2\xe3", 415, "Expected a picture: PNG, JPEG"),
        (seven()[:200], 400, "truncated"),
        (bomb(60_000, 60_000), 413, "60000 x 60000 pixels"),
        (bomb(2001, 2000), 413, "2001 x 2000 pixels"),
        (seven(ink=255), 400, "blank"),
        (
            bytes(MAX_BODY + 1),
            413,
            f"The body is longer than {MAX_BODY} bytes. Send fewer images, or a smaller picture.",
        ),
    ],
    ids=["empty", "text", "svg", "pdf", "truncated", "bomb", "one too many", "blank", "too long"],
)
def test_what_is_no_picture_is_refused_with_its_reason(
    path: str, sent: bytes, status: int, message: str, client: httpx.Client
) -> None:
    answer = client.post(path, content=sent, headers={"content-type": "application/octet-stream"})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


@slow
@pytest.mark.parametrize(
    ("url", "headers", "status", "message"),
    [
        ("/classify?mnay=true", {}, 400, "The query has no parameter 'mnay'; it takes many, image and model."),
        ("/classify?many=true&many=true", {}, 400, "The parameter many comes twice; send it once."),
        ("/compare?model=first", {}, 400, "The query has no parameter 'model'; it takes image."),
        ("/classify?model=nobody", {}, 404, "No model 'nobody' is served; served are "),
        ("/classify?model=first.onnx", {}, 404, "No model 'first.onnx' is served; served are "),
        ("/classify", {"content-type": "text/html"}, 415, "Expected a picture: its bytes as image/png or the like"),
        ("/classify", {"content-type": "application/json"}, 415, "Expected a picture: its bytes as image/png"),
        ("/compare", {"content-type": "text/html"}, 415, "or application/json with one image; got 'text/html'"),
        ("/compare", {"content-type": "application/json"}, 400, "The body is not valid JSON"),
        ("/classify", {"content-type": "multipart/form-data"}, 400, "multipart/form-data needs a boundary"),
        ("/classify", {"content-encoding": "gzip"}, 415, "The body must not be compressed"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(
    url: str, headers: dict[str, str], status: int, message: str, client: httpx.Client
) -> None:
    answer = client.post(url, content=seven(), headers=headers)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


@slow
def test_comparing_takes_one_image(client: httpx.Client, test_set: Any) -> None:
    two = client.post("/compare", content=body(test_set.images[:2]), headers={"content-type": "application/json"})
    assert two.status_code == 400
    assert "at most 1 in one request, got 2" in two.json()["error"]
    named = client.post(
        "/compare", content=body(test_set.images[:1], "first"), headers={"content-type": "application/json"}
    )
    assert named.status_code == 400
    assert named.json()["error"] == "/compare asks every model; leave model out."


@slow
def test_what_a_query_makes_wrong_is_refused_before_the_body_comes(server: Server) -> None:
    for target in ("/classify?x=1", "/classify?model=nobody"):
        with server.connect(server.data_port) as connection, connection.makefile("rb") as answers:
            connection.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert read_answer(answers)[0] in (400, 404)


# The page


@slow
def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in(client: httpx.Client) -> None:
    answer = client.get("/ui")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.lstrip().lower().startswith("<!doctype html>")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.head("/ui").headers["content-length"] == answer.headers["content-length"]
    assert client.get("/ui/index.html").text == client.get("/ui/").text == answer.text


@slow
@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e", "__init__.py", "index.html%20"])
def test_nothing_but_the_page_s_own_files_is_served(name: str, client: httpx.Client) -> None:
    answer = client.get(f"/ui/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


@slow
def test_the_page_s_examples_are_what_models_disagree_on(client: httpx.Client) -> None:
    examples = client.get("/ui/examples").json()["examples"]
    assert [(np.array(one["image"])[0, 0], one["label"]) for one in examples] == [(1, 0), (2, 0), (4, 9)]
    reads = [{tag.partition(":")[0]: digit for tag, digit in one["read"].items()} for one in examples]
    assert reads == [{"first": 3, "second": 0}, {"first": 3, "second": 5}, {"first": 9, "second": 5}]


def test_of_one_model_the_examples_are_its_mistakes(empty_home: Path) -> None:
    model = keep("only", 1, misread=misread([5, 9], [2, 3], [1, 1]))
    silent = keep("silent", 2)
    found = find_examples([model, silent])
    assert [(one["label"], one["read"]) for one in found] == [(2, {model.tag: 1}), (3, {model.tag: 1})]
    assert find_examples([silent]) == []


def test_mistakes_that_were_changed_since_they_were_stored_are_not_shown(empty_home: Path) -> None:
    model = keep("only", 1, misread=misread([5], [2], [1]))
    file = model.folder / "misread.npz"
    file.chmod(0o600)
    file.write_bytes(b"no arrays")
    assert find_examples([model]) == []


@slow
def test_with_keys_the_page_is_open_and_what_it_asks_for_is_not(home: Path) -> None:
    key = "a-key-for-whoever-asks"
    with serving(home, {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_KEYS": key}) as server:
        for port in (server.port, server.data_port):
            with server.client(port) as client:
                assert client.get("/ui").status_code == 200
                assert client.get("/ui/examples").status_code == 401
                assert client.post("/compare", content=seven()).status_code == 401
                bearer = {"authorization": f"Bearer {key}"}
                assert client.get("/ui/examples", headers=bearer).status_code == 200
                assert client.post("/classify", content=seven(), headers=bearer).status_code == 200


# What is counted and logged


@slow
def test_answers_are_counted_and_logged_by_their_route_without_the_client_s_words(server: Server) -> None:
    with server.client(server.data_port) as client:
        client.post("/classify", files={"f": ("secret-name\x1b[31m.png", seven())})
        client.post("/classify?x=%1b[31m", content=seven())
        client.post("/compare", content=seven())
        text = client.get("/metrics").text
    assert re.search(r'samedigit_requests_total\{[^}]*route="/classify"[^}]*status="200"[^}]*\} [1-9]', text)
    assert re.search(r'samedigit_requests_total\{[^}]*route="/classify"[^}]*status="400"[^}]*\} [1-9]', text)
    assert re.search(r'samedigit_requests_total\{[^}]*route="/compare"[^}]*status="200"[^}]*\} [1-9]', text)
    time.sleep(1.5)  # lines are written each second
    log = server.log.read_text()
    assert '"path":"/classify","status":200' in log
    assert '"picture_ms":' in log
    assert "secret-name" not in log
    assert "\x1b[31m.png" not in log


# Beside others, and many at once


def picture_process(server: Server) -> psutil.Process:
    (found,) = [one for one in server.started.family() if "serving.picture_process" in one.cmdline()]
    return found


def peak_bytes(process: psutil.Process) -> int:
    (line,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


@slow
def test_twenty_of_the_largest_pictures_at_once_take_the_memory_of_one(server: Server) -> None:
    largest = seven((2000, 2000))
    bombs = [bomb(60_000, 60_000), bomb(2000, 2000)]

    def send(sent: bytes) -> int:
        with server.client(server.data_port) as client:
            return client.post("/classify", content=sent).status_code

    assert send(largest) == 200
    process = picture_process(server)
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE  # small requests come first
    before = peak_bytes(process)
    with ThreadPoolExecutor(40) as senders:
        statuses = list(senders.map(send, [largest] * 20 + bombs * 10))
    assert statuses[:20] == [200] * 20
    assert set(statuses[20:]) <= {400, 413, 503}
    assert picture_process(server).pid == process.pid
    assert peak_bytes(process) < 1.25 * before


@slow
def test_small_requests_are_answered_while_pictures_are_read(server: Server, test_set: Any) -> None:
    stop = threading.Event()

    def send() -> int:
        count = 0
        with server.client(server.data_port) as client:
            while not stop.is_set():
                assert client.post("/classify", content=seven((2000, 2000))).status_code == 200
                count += 1
        return count

    with ThreadPoolExecutor(2) as senders, server.client(server.data_port) as client:
        sent = [senders.submit(send) for _ in range(2)]
        answered = 0
        try:
            while not stop.is_set():
                answer = client.post(
                    "/v2/models/first.numpy/infer",
                    content=test_set.images[0].tobytes(),
                    headers={"inference-header-content-length": "0"},
                )
                assert answer.status_code == 200
                answered += 1
                if answered == 300:
                    stop.set()
        finally:
            stop.set()
        assert sum(one.result() for one in sent) >= 1


@slow
def test_a_client_that_vanishes_with_half_a_picture_or_a_whole_one_costs_nobody_an_answer(server: Server) -> None:
    picture = seven((2000, 2000))
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    for _ in range(10):
        for sent in (head + picture, head + picture[: len(picture) // 2]):
            connection = server.connect(server.data_port)
            connection.sendall(sent)
            connection.close()
    with server.client(server.data_port) as client:
        assert client.post("/classify", content=seven()).status_code == 200
        in_flight = re.search(
            r"^samedigit_requests_in_flight(?:\{\})? (\d+)", client.get("/metrics").text, re.MULTILINE
        )
    assert in_flight is None or int(in_flight[1]) <= 1


@slow
def test_a_picture_that_comes_too_slowly_is_ended(home: Path) -> None:
    environment = {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_BODY_SECONDS": "2"}
    with serving(home, environment) as server:
        for port in (server.port, server.data_port):
            with server.connect(port) as connection, connection.makefile("rb") as answers:
                connection.sendall(
                    b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + seven()[:50]
                )
                assert read_answer(answers)[0] == 408


@slow
def test_a_picture_s_process_that_is_killed_is_followed_by_another(server: Server) -> None:
    with server.client(server.data_port) as client:
        assert client.post("/classify", content=seven()).status_code == 200
        first = picture_process(server)
        first.send_signal(signal.SIGINT)  # which a terminal's Ctrl-C gives every process, and the server must outlive
        assert client.post("/classify", content=seven()).status_code == 200
        assert picture_process(server).pid == first.pid
        first.kill()
        first.wait(5)
        statuses = [client.post("/classify", content=seven()).status_code for _ in range(3)]
    assert statuses[1:] == [200, 200]
    assert statuses[0] in (200, 500)  # whether its end was seen in time
    assert picture_process(server).pid != first.pid


@slow
def test_the_server_has_come_through_without_a_traceback_and_its_picture_process_ends_with_it(home: Path) -> None:
    with serving(home, {"SAMEDIGIT_BACKENDS": "numpy"}) as server:
        with server.client() as client:
            assert client.post("/classify", content=seven()).status_code == 200
        process = picture_process(server)
        server.process.terminate()
        server.process.wait(20)
        process.wait(5)
        assert "Traceback" not in server.log.read_text()


# The queue by itself


def waiting(picture: bytes) -> Exchange:
    head = Head("POST", b"/classify", "/classify", "", {}, False, len(picture), True, False)
    made = Exchange(head, address="::1", port="data", reply=lambda exchange, answer: None)
    made.body = picture
    return made


def pictures(**settings: int) -> Pictures:
    return Pictures(read_settings({f"SAMEDIGIT_{name.upper()}": str(value) for name, value in settings.items()}))


def outcomes(*exchanges: Exchange, leave: int | None = None, **settings: int) -> list[Any]:
    """What each was told, in order; None: nothing. `leave` is the one whose client goes away at once."""
    found: list[Any] = [None] * len(exchanges)

    async def run() -> None:
        queue = pictures(**settings)
        left = len(exchanges) - (leave is not None)
        done = asyncio.Event()

        def tell(i: int, outcome: Any) -> None:
            nonlocal left
            found[i] = outcome
            left -= 1
            if not left:
                done.set()

        for i, exchange in enumerate(exchanges):
            try:
                queue.submit(exchange, lambda outcome, i=i: tell(i, outcome), many=False)  # type: ignore[misc]
            except RequestError as error:
                tell(i, error)
        if leave is not None:
            exchanges[leave].gone = True
        async with asyncio.timeout(30):
            await done.wait()
        await queue.close()

    asyncio.run(run())
    return found


def test_pictures_are_read_in_their_order_and_their_bodies_let_go() -> None:
    exchanges = [waiting(seven((100 + 10 * i, 100))) for i in range(3)]
    found = outcomes(*exchanges)
    assert [one[0].box.right > one[0].box.left for one in found] == [True] * 3
    assert found[0][0].box.right < found[1][0].box.right < found[2][0].box.right
    assert [one.body for one in exchanges] == [b""] * 3
    assert all(one.picture_ns > 0 for one in exchanges)


def test_who_left_before_its_turn_is_not_read() -> None:
    exchanges = [waiting(seven()) for _ in range(3)]
    found = outcomes(*exchanges, leave=1)
    assert found[1] is None
    assert exchanges[1].picture_ns == 0
    assert exchanges[2].picture_ns > 0


def test_one_more_than_may_wait_is_refused_unless_somebody_has_left() -> None:
    found = outcomes(*[waiting(seven()) for _ in range(4)], max_pictures=3)
    assert [isinstance(one, RequestError) for one in found] == [False, False, False, True]
    assert (found[3].kind, found[3].retry_after_seconds) == (Kind.BUSY, 1)

    async def run() -> None:
        queue = pictures(max_pictures=1)
        first = waiting(seven())
        queue.submit(first, lambda outcome: None, many=False)
        with pytest.raises(RequestError):
            queue.check_room()
        first.gone = True
        queue.check_room()
        await queue.close()

    asyncio.run(run())


def test_who_waits_longer_than_the_deadline_is_told_so_and_not_read() -> None:
    exchanges = [waiting(seven((3000, 2000))), waiting(seven())]
    found = outcomes(*exchanges, deadline_ms=1)
    assert [one.kind for one in found if isinstance(one, RequestError)][-1] is Kind.EXPIRED
    assert re.fullmatch(r"The request expired after \d+ us, before its picture was read\.", str(found[1]))
    assert exchanges[1].picture_ns == 0


def test_what_reads_pictures_knows_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDIGIT_KEYS", "a-key-that-nobody-may-know")

    async def run() -> str:
        queue = pictures()
        done = asyncio.Event()
        queue.submit(waiting(seven()), lambda outcome: done.set(), many=False)
        async with asyncio.timeout(30):
            await done.wait()
        (child,) = [one for one in psutil.Process().children() if "serving.picture_process" in one.cmdline()]
        environment = " ".join(child.environ())
        await queue.close()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        return environment

    assert "SAMEDIGIT" not in asyncio.run(run())
