"""The page in a real browser."""

import pytest
from headless_browser import Browser, found
from serving_client import RunningServer

pytestmark = pytest.mark.skipif(found() is None, reason="no Chromium is installed")

ANSWER = "document.getElementById('answer').innerText"


@pytest.fixture
def page(server: RunningServer, tmp_path):
    opened = Browser(tmp_path, f"http://127.0.0.1:{server.port}/")
    yield opened
    opened.close()


def test_a_visitor_tries_prefixes(page, server, tmp_path):
    page.wait("document.getElementById('error').innerText === 'This server wants a key.'")
    page.type("#key", "wrong")
    page.run("document.activeElement.blur()")
    page.wait("document.getElementById('error').innerText.startsWith('the key is missing or wrong')")
    page.run("document.getElementById('key').value = ''")
    page.type("#key", "secret")
    page.run("document.activeElement.blur()")
    page.wait("document.querySelectorAll('#prefix option').length === 7")

    page.choose("mood")
    page.type("#field-text", "the good film")
    page.click("#send")
    _, answer, _ = server.ask("/predict", {"prefix": "mood", "input": "the good film"}, X_API_Key="secret")
    page.wait(f"{ANSWER}.startsWith({answer['output']['label']!r})")
    assert page.run("document.querySelectorAll('#answer tr').length") == 2
    page.screenshot(tmp_path / "mood.png")

    page.choose("stars")
    page.type("#field-text", "a bad plot")
    page.click("#send")
    page.wait(f"{ANSWER}.includes('value')")

    page.choose("writer")
    page.run(
        "window.seen = []; new MutationObserver(() => window.seen.push(document.getElementById('answer').textContent))"
        ".observe(document.getElementById('answer'), {childList: true})"
    )
    page.type("#field-text", "the good film")
    page.click("#send")
    _, answer, _ = server.ask("/predict", {"prefix": "writer", "input": "the good film"}, X_API_Key="secret")
    page.wait("document.getElementById('note').innerText.includes('pieces')")
    whole = answer["output"]["generated_text"]
    assert page.run("document.getElementById('answer').textContent") == whole
    seen = [text for text in page.run("window.seen") if text]
    assert len(set(seen)) > 3
    assert all(whole.startswith(text) for text in seen)

    page.choose("talker")
    for turn in (1, 2):
        page.type("#field-message", "good film")
        page.click("#send")
        page.wait(f"document.querySelectorAll('.turn').length === {2 * turn}")
    page.screenshot(tmp_path / "talker.png")
    page.click("#reset")
    page.wait("document.querySelectorAll('.turn').length === 0")

    page.choose("mood")
    page.type("#field-text", "good " * 500)
    page.click("#send")
    page.wait("document.getElementById('error').innerText.includes('2000 are read')")
    assert page.said("Runtime.exceptionThrown") == []
    asked = [event["request"]["url"] for event in page.said("Network.requestWillBeSent")]
    assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in asked)
