"""The door: a request in, an answer out, in front of the models. Whatever port it came to, whatever protocol it speaks.

`routes.py` says what there is. A request is admitted once its head is known (`admission.py`), handled once its body is
whole, and answered once; then it is counted, logged and traced, if that is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np

from digits.contract import CLASSES, Images, Probabilities
from digits.picture.found import Box, Found
from serving import routes
from serving.access_log import AccessLog
from serving.admission import Admission
from serving.conversations import Reflection, StreamedInfer, Streaming, Watch
from serving.cors import SECURITY_LINES, Cors
from serving.errors import Kind, RequestError
from serving.exposition import GONE
from serving.messages import STATUS, Answer, Exchange, json_answer
from serving.metrics import CONTENT_TYPE, Metrics
from serving.models import ServedModels
from serving.opening import Opened
from serving.page import INDEX, Page, find_examples
from serving.pictures import Pictures
from serving.protocols import classify, grpc, grpc_control, openapi, predict, protos, v2, v2_control, v2_grpc
from serving.tracing import Tracer

ECHO: Final = "echo"
PREFLIGHT: Final = "preflight"
BINARY: Final = (b"content-type", b"application/octet-stream")

log = logging.getLogger("samedigit")


class Door:
    """Belongs to one event loop.

    Args:
        models: what answers.
        metrics: counts every answer.
        tracer: None, no traces.
        access_log: None, no log.
        document: gives BentoML's own OpenAPI document, for its port.
    """

    def __init__(
        self,
        models: ServedModels,
        *,
        metrics: Metrics,
        tracer: Tracer | None = None,
        access_log: AccessLog | None = None,
        document: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        settings = models.settings
        self.metrics = metrics
        self._models = models
        self._max_images = settings.max_images
        self._admission = Admission(settings, metrics.shed)
        self._pictures = Pictures(settings)
        self._deadline_ns = settings.deadline_ms * 1_000_000
        self._page = Page()
        self._examples: tuple[list[str], Answer] | None = None  # of these models
        self._cors = Cors(settings.cors_origins)
        self._speaks_cors = bool(settings.cors_origins)
        self._tracer = tracer
        self._access_log = access_log
        self._document = document
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop would not keep them
        self._answers: dict[str, Callable[[Exchange], None]] = {
            "infer": self._infer,
            "predict": self._predict,
            "echo": self._echo,
            "classify": self._classify,
            "compare": self._compare,
            "page": self._show_page,
            "examples": lambda exchange: self._later(self._show_examples(), exchange),
            "models": lambda exchange: self.finish(exchange, json_answer(self._models.describe())),
            "metrics": self._expose,
            "documentation": self._describe,
            PREFLIGHT: self._preflight,
            **dict.fromkeys(grpc_control.ANSWERS, self._call),
            "call_infer": self._call_infer,
            "call_stream_infer": lambda exchange: self._converse(
                exchange,
                StreamedInfer(exchange, ask=self._ask_in_stream, leave=self.leave, finish=self.finish),
            ),
            "call_watch": lambda exchange: self._converse(
                exchange, Watch(exchange, served=self._models, finish=self.finish)
            ),
            "call_reflect": lambda exchange: self._converse(exchange, Reflection(exchange, finish=self.finish)),
        }
        self._conversations: dict[Exchange, Streaming] = {}

    # From the ports

    def admit(self, exchange: Exchange, *, foreign: bool) -> None:
        """Decides on a request whose head is known.

        Args:
            exchange: it has its place from here on, until it is answered or left.
            foreign: whether paths that are not the door's are somebody else's: then `exchange.answers` stays empty.

        Raises:
            RequestError: it is refused; `refuse` answers it.
        """
        if exchange.is_call:
            self._admit_call(exchange)
            return
        head = exchange.head
        if head.method == "OPTIONS" and self._cors.preflight(head.method, head.headers) is not None:
            exchange.answers = PREFLIGHT
            return
        if foreign and not routes.owns(head.path):
            self._admission.check_key(exchange, routes.FOREIGN)
            self._admission.admit(exchange, routes.FOREIGN)
            return
        route, exchange.parameters = routes.find(head.method, head.path)
        exchange.route = route.pattern
        exchange.answers = answers = route.answers
        self._admission.check_key(exchange, route)
        if answers == "infer":
            self._check_infer(exchange)
        elif answers == "predict" or answers == ECHO:
            self._check_predict(exchange)
        elif answers == "classify" or answers == "compare":
            self._check_picture(exchange)
        self._admission.admit(exchange, route)

    def _admit_call(self, exchange: Exchange) -> None:
        """The same of a call of gRPC, whose model its message names."""
        exchange.refusal = grpc.refusal
        route = routes.find_call(exchange.head.path)
        exchange.route = route.pattern
        exchange.answers = route.answers
        exchange.streams = route.streams
        grpc.check(exchange.head)
        exchange.expires_ns = grpc.expires_ns(exchange.head.headers, exchange.began_ns)
        self._admission.check_key(exchange, route)
        self._admission.admit(exchange, route)

    def _check_infer(self, exchange: Exchange) -> None:
        """What a head says of an infer request: its model, and whether that has room."""
        if exchange.head.headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError(Kind.MEDIA_TYPE, "The body must not be compressed; send it as it is.")
        name, version = exchange.parameters["model"], exchange.parameters.get("version")
        if name != ECHO or version is not None:
            self._check_room(self._models.named(name, version))

    def _check_predict(self, exchange: Exchange) -> None:
        """The same of /predict, for the model that answers without a name. For one that the body names, `_predict` asks."""
        content_type = exchange.head.headers.get(b"content-type", b"none").partition(b";")[0].strip().lower()
        if content_type != b"application/json":
            came = content_type.decode("latin-1")
            raise RequestError(Kind.MEDIA_TYPE, f"Expected the content type application/json, got {came}.")
        if exchange.answers != ECHO:
            self._check_room(self._models.find(exchange.parameters["backend"], None))

    def _check_picture(self, exchange: Exchange) -> None:
        """The same of /classify and /compare: what the query asks for, and whether one more picture may wait."""
        head = exchange.head
        if exchange.answers == "classify":
            asked = classify.read_query(head.query, "many", "image", "model")
            classify.check_type(head.headers)
            self._check_room(self._models.pick(asked.model))
        else:
            classify.read_query(head.query, "image")
            classify.check_type(head.headers, json=True)
            if classify.media_type(head.headers) == classify.JSON:
                return
        try:
            self._pictures.check_room()
        except RequestError:
            self.metrics.shed("pictures")
            raise

    def _check_room(self, opened: Opened) -> None:
        try:
            opened.batcher.check_room()
        except RequestError:
            self.metrics.shed("waiting")
            raise

    def grow(self, exchange: Exchange, size: int) -> None:
        """Sees that a chunked body, `size` bytes by now, has room. Raises RequestError if there is none."""
        self._admission.reserve(exchange, size)

    def handle(self, exchange: Exchange) -> None:
        """Answers a request whose body is whole: calls `exchange.reply` once, now or later. Never raises."""
        try:
            answers = self._answers.get(exchange.answers)
            if answers is not None:
                answers(exchange)
                return
            answer = v2_control.ANSWERS[exchange.answers](self._models, exchange.parameters, exchange.body)
            if isinstance(answer, Answer):
                self.finish(exchange, answer)
            else:
                self._later(answer, exchange)
        except RequestError as error:
            self.refuse(exchange, error)
        except Exception:
            self.finish(exchange, _failure(exchange))

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        self.finish(exchange, exchange.refusal(error))

    def refusal_of_call(self, error: RequestError) -> Answer:
        """What a call of gRPC is answered whose head was refused before it became an exchange."""
        return grpc.refusal(error)

    def leave(self, exchange: Exchange) -> None:
        """The client of a request went away: its place is free, and what waits in a queue is not run."""
        exchange.gone = True
        self._end_conversation(exchange)
        exchange.body = b""  # of a picture that waits
        self._admission.release(exchange)
        if not exchange.answered:
            self._count(exchange, GONE, 0)

    def header_lines(self, headers: Mapping[bytes, bytes]) -> bytes:
        """What every answer to a request with these headers says besides: "name: value\\r\\n..."."""
        return SECURITY_LINES + self._cors.lines(headers) if self._speaks_cors else SECURITY_LINES

    def finish(self, exchange: Exchange, answer: Answer) -> None:
        """Answers a request, whoever found the answer; more than once, or when the client is gone, does nothing."""
        if exchange.gone or exchange.answered:
            return
        exchange.answered = True
        self._admission.release(exchange)
        exchange.reply(exchange, answer)
        self._end_conversation(exchange)
        self._count(exchange, answer.status, len(answer.body))

    def _count(self, exchange: Exchange, status: int, answer_bytes: int) -> None:
        self.metrics.answered(exchange, status)
        trace = self._tracer.answered(exchange, status) if self._tracer is not None else ""
        if self._access_log is not None:
            self._access_log.answered(exchange, status, answer_bytes, trace)

    async def close(self) -> None:
        """Ends what the door has started; what is under way is no longer answered."""
        await self._pictures.close()

    def write_snapshot(self) -> None:
        """Keeps the metrics for whichever worker is asked for them. Due every second."""
        self.metrics.write_snapshot(self._models.all(), self._admission.requests)

    # What answers

    def _predict(self, exchange: Exchange) -> None:
        asked = predict.read_request(exchange.body, max_images=self._max_images)
        opened = self._models.find(exchange.parameters["backend"], asked.model)
        if asked.model is not None:  # which the head did not say
            self._check_room(opened)

        def write(probabilities: Probabilities) -> Answer:
            tag = opened.model.tag
            return Answer(200, predict.write_answer(probabilities, model=tag, backend=opened.backend))

        self._run(opened, asked.images, write, exchange)

    def _infer(self, exchange: Exchange) -> None:
        name, version = exchange.parameters["model"], exchange.parameters.get("version")
        opened = None if name == ECHO and version is None else self._models.named(name, version)
        length_of_json = exchange.head.headers.get(v2.HEADER_LENGTH)
        asked = v2.read_infer(exchange.body, length_of_json, max_images=self._max_images)
        model_version = "1" if opened is None else opened.model.version

        def write(probabilities: Probabilities) -> Answer:
            body, length = v2.write_infer(probabilities, asked, model=name, version=model_version)
            if length is None:
                return Answer(200, body)
            return Answer(200, body, (BINARY, (v2.HEADER_LENGTH, b"%d" % length)))

        if opened is None:
            exchange.images = len(asked.images)
            self.finish(exchange, write(_tenths(len(asked.images))))
        else:
            self._run(opened, asked.images, write, exchange, timeout_us=asked.timeout_us)

    def _run(
        self,
        opened: Opened,
        images: Any,
        write: Callable[[Probabilities], Answer],
        exchange: Exchange,
        *,
        timeout_us: int = 0,
    ) -> None:
        """Queues `images` `[N, 28, 28]` for a model; `write` makes the answer of their probabilities `[N, 10]`."""
        exchange.model = opened.name
        exchange.version = opened.model.version
        exchange.images = len(images)
        exchange.body = b""  # what is kept of it, `images` keeps
        self._submit(opened, images, lambda found: self.finish(exchange, write(found)), exchange, timeout_us=timeout_us)

    def _submit(
        self,
        opened: Opened,
        images: Images,
        take: Callable[[Probabilities], None],
        exchange: Exchange,
        *,
        timeout_us: int,
    ) -> None:
        """Queues `images` `[N, 28, 28]` for a model; `take` gets their probabilities `[N, 10]`, and goes on with them."""

        def done(outcome: Probabilities | RequestError) -> None:
            try:
                if isinstance(outcome, RequestError):
                    if outcome.kind is Kind.EXPIRED:
                        self.metrics.shed("expired")
                    self.refuse(exchange, outcome)
                else:
                    take(outcome)
            except RequestError as error:
                self.refuse(exchange, error)
            except Exception:
                self.finish(exchange, _failure(exchange))

        try:
            opened.batcher.submit(images, done, exchange=exchange, timeout_us=timeout_us)
        except RequestError:
            self.metrics.shed("queue")
            raise

    def _classify(self, exchange: Exchange) -> None:
        asked = classify.read_query(exchange.head.query, "many", "image", "model")
        expires_ns = time.monotonic_ns() + self._deadline_ns

        def run(found: Sequence[Found]) -> None:
            opened = self._models.pick(asked.model)
            self._check_room(opened)

            def write(probabilities: Probabilities) -> Answer:
                model = opened.model
                body = classify.write_classified(
                    found, probabilities, model=model.tag, backend=opened.backend, card=model.card, image=asked.image
                )
                return Answer(200, body)

            images = np.stack([one.image for one in found])  # [N, 28, 28]
            self._run(opened, images, write, exchange, timeout_us=_left_us(expires_ns))

        self._read_picture(exchange, run, many=asked.many)

    def _compare(self, exchange: Exchange) -> None:
        asked = classify.read_query(exchange.head.query, "image")
        expires_ns = time.monotonic_ns() + self._deadline_ns

        def run(image: Images, box: Box | None) -> None:
            remaining = iter(self._models.in_order())
            rows: list[classify.Row] = []
            exchange.images = 1
            exchange.body = b""
            waited_ns = ran_ns = 0

            def ask_next() -> None:
                opened = next(remaining, None)
                if opened is None:
                    exchange.queue_ns, exchange.run_ns = waited_ns, ran_ns
                    self.finish(exchange, Answer(200, classify.write_compared(image, box, rows, show=asked.image)))
                    return

                def take(probabilities: Probabilities) -> None:
                    nonlocal waited_ns, ran_ns
                    waited_ns += exchange.queue_ns
                    ran_ns += exchange.run_ns
                    model, score = opened.model, opened.score.accuracy
                    rows.append(
                        classify.Row(
                            model.tag, model.recipe, opened.backend, model.card, probabilities, exchange.run_ns, score
                        )
                    )
                    ask_next()

                self._check_room(opened)
                self._submit(opened, image[None], take, exchange, timeout_us=_left_us(expires_ns))

            ask_next()

        if classify.media_type(exchange.head.headers) == classify.JSON:
            request = predict.read_request(exchange.body, max_images=1)
            if request.model is not None:
                raise RequestError(Kind.MALFORMED, "/compare asks every model; leave model out.")
            run(request.images[0], None)
        else:
            self._read_picture(exchange, lambda found: run(found[0].image, found[0].box), many=False)

    def _read_picture(self, exchange: Exchange, run: Callable[[Sequence[Found]], None], *, many: bool) -> None:
        """Queues a picture, and has the digits that were found `run`."""

        def done(outcome: Sequence[Found] | RequestError) -> None:
            try:
                if isinstance(outcome, RequestError):
                    if outcome.kind is Kind.EXPIRED:
                        self.metrics.shed("expired")
                    raise outcome
                run(outcome)
            except RequestError as error:
                self.refuse(exchange, error)
            except Exception:
                self.finish(exchange, _failure(exchange))

        try:
            self._pictures.submit(exchange, done, many=many)
        except RequestError:
            self.metrics.shed("pictures")
            raise

    def _show_page(self, exchange: Exchange) -> None:
        name = exchange.parameters.get("file", INDEX)
        self.finish(exchange, self._page.file(name))
        if name == INDEX:
            self._pictures.warm()

    async def _show_examples(self) -> Answer:
        models = {one.model.tag: one.model for one in self._models.in_order()}
        if self._examples is None or self._examples[0] != list(models):
            found = await asyncio.to_thread(find_examples, list(models.values()))
            self._examples = list(models), json_answer({"examples": found})
        return self._examples[1]

    # Calls of gRPC

    def _call(self, exchange: Exchange) -> None:
        call = grpc_control.ANSWERS[exchange.answers]
        found = call.answer(self._models, protos.read(call.takes, grpc.message_of(exchange.body)))
        if isinstance(found, Coroutine):

            async def answer() -> Answer:
                return grpc.answered((await found).SerializeToString())

            self._later(answer(), exchange)
        else:
            self.finish(exchange, grpc.answered(found.SerializeToString()))

    def _call_infer(self, exchange: Exchange) -> None:
        asked = v2_grpc.read_infer(grpc.message_of(exchange.body), max_images=self._max_images)
        self._infer_by_message(exchange, asked, grpc.answered)

    def _infer_by_message(
        self, exchange: Exchange, asked: v2_grpc.InferRequest, answer: Callable[[bytes], Answer]
    ) -> None:
        """Runs a model; `answer` makes the answer of a ModelInferResponse."""
        if asked.model == ECHO and asked.version is None:
            exchange.images = len(asked.images)
            self.finish(exchange, answer(v2_grpc.write_infer(_tenths(len(asked.images)), asked, version="1")))
            return
        opened = self._models.named(asked.model, asked.version)
        self._check_room(opened)
        version = opened.model.version
        self._run(
            opened,
            asked.images,
            lambda probabilities: answer(v2_grpc.write_infer(probabilities, asked, version=version)),
            exchange,
            timeout_us=grpc.timeout_us(exchange, asked.timeout_us),
        )

    def _ask_in_stream(self, exchange: Exchange) -> None:
        """Answers one request of a call that streams; it is admitted as one that comes alone."""
        identity = ""
        exchange.refusal = lambda error: Answer(
            STATUS[error.kind], grpc.framed(v2_grpc.streamed_error(error, identity)), grpc.HEADERS
        )
        try:
            self._admission.admit(exchange, routes.find_call(exchange.route))
            self._admission.reserve(exchange, len(exchange.body))
            asked = v2_grpc.read_infer(grpc.message_of(exchange.body), max_images=self._max_images)
            identity = asked.id
            self._infer_by_message(exchange, asked, lambda response: grpc.answered(v2_grpc.streamed(response)))
        except RequestError as error:
            self.refuse(exchange, error)
        except Exception:
            self.finish(exchange, _failure(exchange))

    def _converse(self, exchange: Exchange, streaming: Streaming) -> None:
        self._conversations[exchange] = streaming

    def _end_conversation(self, exchange: Exchange) -> None:
        if exchange.stream is not None:
            self._conversations.pop(exchange, None)
            exchange.stream.left()

    def tell(self) -> None:
        """Says to calls that stream what has changed by itself. Due every second."""
        for streaming in list(self._conversations.values()):
            streaming.tell()

    def drain(self) -> None:
        """Ends the calls that stream, once what they have asked is answered."""
        for streaming in list(self._conversations.values()):
            streaming.drain()

    def _echo(self, exchange: Exchange) -> None:
        asked = predict.read_request(exchange.body, max_images=self._max_images)
        if asked.model not in (None, ECHO):
            raise RequestError(Kind.UNKNOWN, f"/echo has no model {asked.model[:20]!r}; leave model out.")
        exchange.images = len(asked.images)
        self.finish(exchange, Answer(200, predict.write_answer(_tenths(len(asked.images)), model=ECHO, backend=ECHO)))

    def _expose(self, exchange: Exchange) -> None:
        text = self.metrics.exposition(self._models.all(), self._admission.requests)
        self.finish(exchange, Answer(200, text, ((b"content-type", CONTENT_TYPE.encode()),)))

    def _describe(self, exchange: Exchange) -> None:
        theirs = self._document() if self._document is not None and exchange.port == "api" else None
        self.finish(exchange, json_answer(openapi.document(self._models.settings, theirs)))

    def _preflight(self, exchange: Exchange) -> None:
        answer = self._cors.preflight(exchange.head.method, exchange.head.headers)
        assert answer is not None  # as `admit` has seen
        self.finish(exchange, answer)

    def _later(self, answer: Coroutine[Any, Any, Answer], exchange: Exchange) -> None:
        async def finish() -> None:
            try:
                found = await answer
            except RequestError as error:
                found = exchange.refusal(error)
            except Exception:
                found = _failure(exchange)
            self.finish(exchange, found)

        task = asyncio.get_running_loop().create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tenths(images: int) -> Probabilities:
    return np.full((images, CLASSES), 0.1, np.float32)


def _left_us(expires_ns: int) -> int:
    """How long is left, for a model's queue; at least a microsecond, so that it is the queue that says it is too late."""
    return max(1, (expires_ns - time.monotonic_ns()) // 1000)


def _failure(exchange: Exchange) -> Answer:
    log.exception("%r failed", exchange.head.path[:100])
    return exchange.refusal(RequestError(Kind.FAILED, "The server failed; its log says why."))
