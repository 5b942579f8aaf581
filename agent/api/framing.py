"""Finds the requests in a connection's bytes (httptools parses), bounded in size. No socket, no clock.

What several parsers could read in several ways is refused: two lengths, a length beside chunks, a coding other than
chunks, a body where the protocol is to be switched.
"""

from collections.abc import Callable

import httptools

from agent.api.wire import KEPT_HEADERS, WANTED, Refused, Request, origin_form


class Framer:
    """Feeds on bytes and hands each whole request to `deliver`, in order.

    Args:
        deliver: gets a request the moment its last byte was fed.
        proceed: called when a client waits for our leave to send its body.
    """

    def __init__(
        self,
        *,
        max_header: int,
        max_body: int,
        deliver: Callable[[Request], None],
        proceed: Callable[[], None],
    ) -> None:
        self._max_header = max_header
        self._max_body = max_body
        self._deliver = deliver
        self._proceed = proceed
        self._request = Request()
        self._head = 0  # bytes of the head that the parser has told us of
        self._untold = 0  # bytes fed since then
        self._in_head = False
        self._body = bytearray()
        self.partial = False
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Take in the next bytes.

        Raises:
            Refused: they are no request we answer; feed nothing more.
        """
        self._untold += len(data)
        rest: bytes | memoryview = data
        while rest:
            rest = self._feed(rest)
        if self._in_head and self._untold > self._max_header:
            raise self._too_large()

    def _feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse `data`; what is left after a request to switch protocols, which is answered like any other."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as wrapped:
            raise wrapped.__context__ or wrapped from None
        except httptools.HttpParserError:
            raise Refused(400, "this is not a well-formed HTTP/1.1 request") from None
        return b""

    def close(self) -> None:
        """Let go of the parser, which holds us."""
        del self._parser

    # -- called by the parser ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._request = Request()
        self._head = 0
        self._in_head = self.partial = True

    def on_url(self, part: bytes) -> None:
        """A piece of the target."""
        self._head += len(part)
        self._request.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer, which counts but is not kept."""
        self._head += len(name) + len(value) + 4
        if self._head > self._max_header:
            raise self._too_large()
        key = name.lower()
        if key in KEPT_HEADERS and self._in_head and (key != b"accept" or WANTED in value.lower()):
            kept = self._request.headers
            kept[key] = kept[key] + b", " + value if key in kept else value

    def on_headers_complete(self) -> None:
        """The head is whole: refuse early what would be refused anyway."""
        self._in_head = False
        request = self._request
        request.version = self._parser.get_http_version()
        if request.version not in ("1.1", "1.0"):
            raise Refused(400, "this is not a well-formed HTTP/1.1 request")
        if self._head > self._max_header:
            raise self._too_large()
        if self._parser.get_method() == b"CONNECT":
            # Nothing behind us answers it: aiohttp takes it for a switch to another protocol, and falls silent.
            raise Refused(400, "this is no proxy")
        if request.target[:1] != b"/" and origin_form(request.target) is None:
            raise Refused(400, "the request's target has no path")
        if request.headers:
            self._check_body()

    def _too_large(self) -> Refused:
        return Refused(431, f"the request's head is larger than {self._max_header} bytes")

    def _check_body(self) -> None:
        headers = self._request.headers
        length = headers.get(b"content-length")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or self._request.version == "1.0"):
            raise Refused(400, "the only transfer coding is chunked, over HTTP/1.1")
        expects_body = coding is not None or int(length or b"0") > 0
        if expects_body and self._parser.should_upgrade():
            raise Refused(400, "a request to switch protocols cannot carry a body")
        if int(length or b"0") > self._max_body:
            raise Refused(413, f"the request's body is larger than {self._max_body} bytes")
        expected = headers.get(b"expect")
        if expected is not None and self._request.version == "1.1":
            if expected.lower() != b"100-continue":
                raise Refused(417, "the only expectation that can be met is 100-continue")
            if expects_body:
                self._proceed()

    def on_body(self, part: bytes) -> None:
        """A piece of the body."""
        self._body += part
        if len(self._body) > self._max_body:
            raise Refused(413, f"the request's body is larger than {self._max_body} bytes")

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._untold = 0
        self.partial = False
        request = self._request
        request.method = self._parser.get_method()
        request.keep_alive = self._parser.should_keep_alive()
        if self._body:
            request.body = bytes(self._body)
            self._body.clear()
        self._deliver(request)
