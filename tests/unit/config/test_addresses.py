import pytest

from agent.config.addresses import everywhere, split_address


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("127.0.0.1:8210", ("127.0.0.1", 8210)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[fd00::7]:65535", ("fd00::7", 65535)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104 - only read
        *((text, None) for text in ("", ":80", "80", "a:80", "1.2.3.4:0", "1.2.3:80", "[1.2.3.4]:80", "::1:80")),
        *((text, None) for text in ("127.0.0.1:80 ", "127.0.0.1:٨٠", "http://127.0.0.1:80", "[::1]", "[::1]:")),
    ],
)
def test_an_address_is_an_ip_and_a_port(text: str, means: tuple[str, int] | None) -> None:
    assert split_address(text) == means


@pytest.mark.parametrize(
    ("text", "all_of_them"),
    [("0.0.0.0:1", True), ("[::]:1", True), ("[::1]:1", False), ("10.0.0.0:1", False), ("nowhere", False)],
)
def test_an_address_may_mean_every_one(text: str, all_of_them: bool) -> None:
    assert everywhere(text) is all_of_them
