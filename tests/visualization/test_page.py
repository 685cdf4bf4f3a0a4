"""The page of attention: what is in it, and what a browser makes of it."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from transformer_jax.cli import main
from transformer_jax.results import AttentionMaps
from transformer_jax.visualization.attention import merge_weights
from transformer_jax.visualization.page import attention_page

HOSTILE = ["▁</script><script>alert(1)</script>", "▁&amp;", "▁\"'", "▁{{data}}", "</s>"]


def seen(layers=2, heads=3, source=HOSTILE, target=("▁ein", "▁Hu", "t", "</s>")):
    rng = np.random.default_rng(0)
    read, written = ["<s>", *target[:-1]], list(target)

    def weights(rows, columns):
        return rng.dirichlet(np.ones(len(columns)), (layers, heads, len(rows)))

    return AttentionMaps(
        list(source), read, written, weights(source, source), weights(written, read),
        weights(written, source),
    )  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Tags, attributes, and text by the tag that it is in."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.stack = [], {}, []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.stack.append(dict(attributes).get("id", tag))

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        if self.stack:
            self.text[self.stack[-1]] = self.text.get(self.stack[-1], "") + data


def test_page_holds_every_weight_and_escapes_text():
    attention = seen()
    page = attention_page(attention)
    reader = Reader()
    reader.feed(re.sub("<meta[^>]*>", "", page))
    assert [tag for tag, _ in reader.tags].count("script") == 2
    data = json.loads(reader.text["data"])
    assert list(data) == ["encoder", "cross", "decoder"]
    words = ["</script><script>alert(1)</script>", "&amp;", "\"'", "{{data}}", "</s>"]
    assert data["encoder"]["rows"] == data["cross"]["columns"] == words
    assert data["cross"]["rows"] == ["ein", "Hut", "</s>"]
    assert data["decoder"]["columns"] == ["<s>", "ein", "Hut"]
    shown = np.array(data["encoder"]["weights"])
    np.testing.assert_allclose(shown / 10_000, attention.encoder, atol=5e-5)
    cross = np.array(data["cross"]["weights"]) / 10_000
    np.testing.assert_allclose(cross[:, :, 1], attention.cross[:, :, 1:3].mean(2), atol=5e-5)
    assert reader.text["title"].startswith("</script><script>alert(1)</script> &amp; ")


def test_page_is_self_contained():
    page = attention_page(seen())
    assert not re.search(r'(src|href)\s*=|@import|https?://(?!www\.w3\.org/2000/svg")', page)
    assert "default-src 'none'" in page


def test_page_is_written_by_the_command(uninterrupted_run, tmp_path, capsys):
    _, _, run = uninterrupted_run
    command = ["attention", "--run-dir", str(run.folder), "--source", "w1 w2 <w3>"]
    main([*command, "--html", "page.html"])
    assert capsys.readouterr().out == "page.html\n"
    assert not (tmp_path / "attention.png").exists()
    assert "w1 w2" in (tmp_path / "page.html").read_text(encoding="utf-8")
    main([*command, "--html", "page.html", "--output", "head.svg"])
    assert capsys.readouterr().out == "head.svg\npage.html\n"
    with pytest.raises(SystemExit, match=r"page\.txt is not a page file: end its name in \.html"):
        main([*command, "--html", "page.txt"])


@pytest.fixture
def browser(tmp_path):
    """Chromium without a screen, steered as by a person: mouse, keys, touch."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "window-size=900,1100", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_page_in_a_browser(browser, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    attention = seen()
    attention.encoder[1, 2, 4] = np.eye(5)[3]  # one word has it all
    (tmp_path / "page.html").write_text(attention_page(attention), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title.startswith("</script><script>alert(1)</script>")

    def words(group):
        return browser.find_elements(By.CSS_SELECTOR, f"#{group} > *")

    def lit():
        """Which word asks, and the shares that the words below it get, as they are coloured."""
        [asking] = browser.find_elements(By.CSS_SELECTOR, "#rows [aria-pressed=true]")
        alphas = []
        for word in words("columns"):
            found = re.findall(r"[\d.]+", word.value_of_css_property("background-color"))
            alphas.append(float(found[3]) if len(found) == 4 else 1.0)
        return asking.text, alphas

    def expect(row, weights):
        text, alphas = lit()
        assert text == words("rows")[row].text
        np.testing.assert_allclose(alphas, weights[row], atol=5e-3)
        most = f"{round(100 * max(weights[row]))}%"
        assert most in browser.find_element(By.ID, "told").text

    encoder = attention.encoder
    expect(0, encoder[0].mean(0))
    ActionChains(browser).move_to_element(words("rows")[2]).perform()  # hovering
    expect(2, encoder[0].mean(0))
    Select(browser.find_element(By.ID, "layer")).select_by_visible_text("2")
    Select(browser.find_element(By.ID, "head")).select_by_visible_text("3")
    expect(2, encoder[1, 2])
    # From the last select Tab reaches the one word that is in its order, arrows the others.
    browser.find_element(By.ID, "head").send_keys(Keys.TAB)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    expect(3, encoder[1, 2])
    ActionChains(browser).send_keys(Keys.HOME).perform()
    expect(0, encoder[1, 2])
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    expect(0, encoder[1, 2])
    assert browser.switch_to.active_element == words("rows")[0]
    place = words("rows")[1].rect
    point = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
    for kind, points in (("touchStart", [point]), ("touchEnd", [])):
        event = {"type": kind, "touchPoints": points}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
    expect(1, encoder[1, 2])
    Select(browser.find_element(By.ID, "part")).select_by_visible_text("decoder, to the source")
    assert [word.text for word in words("rows")] == ["ein", "Hut", "</s>"]
    ActionChains(browser).move_to_element(words("rows")[0]).perform()
    cross = merge_weights(attention.cross[1, 2], attention.target_tokens, attention.source)
    expect(0, cross)
    # A row of the matrix is one more place to point at.
    rows = browser.find_elements(By.CSS_SELECTOR, "#matrix .row")
    ActionChains(browser).move_to_element(rows[2]).perform()
    expect(2, cross)
    Select(browser.find_element(By.ID, "part")).select_by_visible_text("encoder, to the source")
    ActionChains(browser).move_to_element(words("rows")[4]).perform()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert contrast(browser, "body", "h1") > 7
        most = "#columns > :nth-child(4)"
        assert contrast(browser, most, f"{most} .share") > 4.5
    # Nothing of the text became markup, nothing failed, nothing was asked of a network.
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 2
    assert browser.get_log("browser") == []
    browser.set_window_size(360, 700)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= browser.execute_script("return window.innerWidth")


def contrast(browser, background, text):
    """WCAG's ratio of the luminances of a background and of text on it."""
    from selenium.webdriver.common.by import By

    values = []
    for place, name in ((background, "background-color"), (text, "color")):
        colour = browser.find_element(By.CSS_SELECTOR, place).value_of_css_property(name)
        parts = np.array([float(n) / 255 for n in re.findall(r"[\d.]+", colour)[:3]])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        values.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(values) / min(values)
