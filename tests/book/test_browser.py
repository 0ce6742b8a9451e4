"""The rendered book in a headless Chromium: what loads, what is seen, what answers to keys.

Needs Chromium and the HTML in build/html; without either the tests are skipped, unless RLN_BROWSER=required.
"""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

import build

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PAGES = sorted(str(p.relative_to(HTML)) for p in HTML.rglob("*.html") if "_static" not in p.parts)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]

if not (CHROMIUM and DRIVER and PAGES):
    reason = "the browser tests need chromium, chromedriver and the book in build/html (make book)"
    if os.environ.get("RLN_BROWSER") == "required":
        raise RuntimeError(reason)
    pytest.skip(reason, allow_module_level=True)

#: Ratios of the luminances of text and ground, for every element that holds text of its own; those below 4.5.
CONTRAST = """
const rgb = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const lum = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
const over = (top, under) => { const a = top.length > 3 ? top[3] : 1;
  return [0, 1, 2].map(i => a * top[i] + (1 - a) * under[i]); };
const ground = e => { const stack = [];
  for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) stack.push(c); if (c.length < 4 || c[3] == 1) break; }
  return stack.reverse().reduce((under, c) => over(c, under), [255, 255, 255]); };
const bad = new Map();
for (const e of document.querySelectorAll("main *, .bd-sidebar-primary *")) {
  if (e.closest("mjx-container, svg, .headerlink, [aria-hidden=true]")) continue;
  if (!e.checkVisibility({visibilityProperty: true})) continue;
  if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim())) continue;
  const under = ground(e), text = over(rgb(getComputedStyle(e).color), under);
  const [a, b] = [lum(text), lum(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  const name = e.tagName + "." + e.className + " " + getComputedStyle(e).color + " on " + under.map(Math.round);
  if (ratio < 4.5) bad.set(name, ratio.toFixed(2) + " " + e.textContent.trim().slice(0, 40));
}
return [...bad].map(x => x.join(": "));
"""
#: Elements that make a page wider than the window; what scrolls in a box of its own does not count.
OVERFLOW = """
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
const scrolls = e => { for (e = e.parentElement; e && e.tagName != "BODY"; e = e.parentElement)
  if (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX)) return true; return false; };
return [document.documentElement.scrollWidth + " > " + width].concat([...document.querySelectorAll("main *")]
  .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e)).slice(0, 5)
  .map(e => e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 40)));
"""
#: Equations that were not set, and what MathJax could not read.
MATHS = """
await MathJax.startup.promise;
const unset = [...document.querySelectorAll(".math")].filter(e => !e.querySelector("mjx-container"));
const wrong = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")];
return [unset.length + wrong.length, document.querySelectorAll("mjx-container").length];
"""
THEME = """
document.documentElement.dataset.theme = document.documentElement.dataset.mode = arguments[0];
document.head.insertAdjacentHTML("beforeend", "<style>* {transition: none !important}</style>");
"""
FIGURES = """
return [...document.querySelectorAll("main figure, main img")].filter(e => {
  if (e.tagName == "IMG") return !e.alt.trim() || !e.complete || !e.naturalWidth;
  return !(e.querySelector("figcaption") || {textContent: ""}).textContent.trim();
}).map(e => e.outerHTML.slice(0, 200));
"""


@pytest.fixture(scope="session")
def site():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.set_script_timeout(60)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def wide(browser, width=1280):
    """Set the width of the page; a window of Chromium's cannot be as narrow as a telephone."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def complaints(browser):
    """Errors on the console since the last call; failed requests are among them."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def visit(browser, address):
    """Open a page and wait until it stands; index.html has only stood once it has sent the reader on.

    Without the wait, the sending on can break into the visit of the next page, which is then looked at while empty.
    """
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        browser.get(address)
    except TimeoutException:  # seen once: Chromium stood idle at its first page
        browser.get(address)
    stands = "document.readyState == 'complete' && !document.querySelector('meta[http-equiv=Refresh]')"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(f"return {stands}"))


def maths(browser):
    """(equations not set, equations set), after MathJax has finished."""
    if not browser.execute_script("return document.querySelectorAll('.math').length"):
        return 0, 0
    script = "const done = arguments[0]; (async () => {" + MATHS + "})().then(done, e => done([String(e), 0]));"
    return tuple(browser.execute_async_script(script))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(browser, site, page):
    """Loads without complaints; equations and figures stand; nothing sticks out on a telephone; text can be read."""
    wide(browser)
    visit(browser, site + page)
    found = {"equations not set": maths(browser)[0], "figures": browser.execute_script(FIGURES)}
    for theme in ("light", "dark"):
        browser.execute_script(THEME, theme)
        found[f"contrast, {theme}"] = browser.execute_script(CONTRAST)
    wide(browser, 360)
    found["wider than 360 pixels"] = browser.execute_script(OVERFLOW)
    found["console"] = complaints(browser)
    assert not {what: where for what, where in found.items() if where}


def test_the_checks_of_a_page_can_fail(browser, site):
    """Each check finds the fault that is put on a good page."""
    wide(browser, 360)
    visit(browser, site + "book/notation.html")
    assert not browser.execute_script(OVERFLOW)
    assert maths(browser)[0] == 0 < maths(browser)[1]
    faults = """<p style="color: #999; background: #fff">pale</p><p style="width: 900px">wide</p><img src="none.png">
    <figure></figure><span class="math">x</span>"""
    browser.execute_script(
        "document.querySelector('main article').insertAdjacentHTML('beforeend', arguments[0])", faults
    )
    assert any("pale" in text for text in browser.execute_script(CONTRAST))
    assert any("wide" in text for text in browser.execute_script(OVERFLOW))
    assert len(browser.execute_script(FIGURES)) == 2 and maths(browser)[0] == 1
    browser.get(site + "book/none.html")
    assert any("404" in text for text in complaints(browser))


class Links(HTMLParser):
    """The targets and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if target := given.get("src" if tag in ("img", "script") else "href"):
            self.targets.add(target)


def broken(pages):
    """Links within the book whose file or anchor is missing. ``pages``: name -> :class:`Links`."""
    found = []
    for page, links in pages.items():
        for target in links.targets:
            if urlparse(target).scheme or target.startswith("//"):
                continue
            path, anchor = urldefrag(urljoin(page, unquote(target.split("?")[0])))
            if not (HTML / path).exists() or (anchor and path in pages and unquote(anchor) not in pages[path].anchors):
                found.append(f"{page}: {target}")
    return found


def test_no_link_within_the_book_is_broken():
    pages = {page: Links(HTML / page) for page in PAGES}
    assert sum(len(links.targets) for links in pages.values()) > 500
    assert not broken(pages)
    pages[PAGES[0]].targets |= {"nowhere.html", "#nowhere"}
    assert len(broken(pages)) == 2


def test_nothing_is_fetched_from_elsewhere():
    outside = [t for page in PAGES for t in Links(HTML / page).targets if t.endswith((".js", ".css")) and "//" in t]
    assert not outside


def test_the_book_opens_from_disk(browser):
    wide(browser)
    complaints(browser)  # forget those of the tests before
    for page in ("index.html", "book/intro.html", "notebooks/03_from_hooke_to_lippmann_schwinger.html"):
        visit(browser, (HTML / page).as_uri())
        unset, typeset = maths(browser)
        assert unset == 0 and (typeset > 20 or "02" not in page)
        assert not browser.execute_script(FIGURES)
        assert not complaints(browser), page


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The archive of the book in build/html, packed by ``tools/build.py`` and unpacked elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "BUILD", tmp_path_factory.mktemp("packed"))
        target = build.pack(HTML, ROOT / "notebooks")
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(target, folder)
    (top,) = folder.iterdir()
    return top


def test_the_archive_is_whole(unpacked):
    """Every file has its checksum, which finds a changed one; what a reader needs is there, and no machine's path."""
    listed = {
        name: digest
        for digest, name in map(str.split, (unpacked / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    }
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    assert files == set(listed) | {"SHA256SUMS"}
    for name in ("html/index.html", "constraints.txt", "data/sample_16.h5", "data/pretrained/manifest.json"):
        assert name in listed
    assert len([name for name in listed if name.startswith("notebooks/") and name.endswith(".ipynb")]) >= 12

    def check():
        done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=unpacked, capture_output=True)
        return done.returncode

    assert check() == 0
    licence = unpacked / "LICENSE"
    text = licence.read_text(encoding="utf-8")
    licence.write_text(text + "!", encoding="utf-8")
    assert check() != 0
    licence.write_text(text, encoding="utf-8")
    texts = [p for p in unpacked.rglob("*") if p.suffix in (".html", ".ipynb", ".md", ".py", ".js", ".yml", ".toml")]
    assert not [p.name for p in texts if str(ROOT) in p.read_text(encoding="utf-8", errors="replace")]


def test_the_archive_opens_from_disk(browser, unpacked):
    """Index, equations and players from files, with no network."""
    from selenium.common.exceptions import WebDriverException

    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": True})
    try:
        wide(browser)
        complaints(browser)
        visit(browser, (unpacked / "html" / "index.html").as_uri())
        assert browser.current_url.endswith("/book/intro.html")
        for page in ("03_from_hooke_to_lippmann_schwinger", "05_moulinec_fixed_point"):
            visit(browser, (unpacked / "html" / "notebooks" / f"{page}.html").as_uri())
            unset, typeset = maths(browser)
            assert unset == 0 and typeset > 5, page
            assert not browser.execute_script(FIGURES), page
        player = "const p = document.querySelector('.rln-player.rln-on');"
        now = "return [...p.querySelectorAll('.rln-frame')].findIndex(e => e.classList.contains('rln-now'))"
        assert browser.execute_script(player + now) == 0
        key = "p.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));"
        assert browser.execute_script(player + key + now) == 1
        assert not complaints(browser)
        with pytest.raises(WebDriverException, match="ERR_INTERNET_DISCONNECTED"):  # there is no network indeed
            browser.get("http://127.0.0.1/")
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**offline, "offline": False})


def test_players_answer_to_keys(browser, site):
    """The arrow keys change the frame that a player shows, there and back."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    with_players = [page for page in PAGES if 'rln-player"' in (HTML / page).read_text(encoding="utf-8")]
    if not with_players:
        pytest.skip("no page has a player")
    wide(browser)
    for page in with_players:
        visit(browser, site + page)
        for player in browser.find_elements(By.CSS_SELECTOR, ".rln-player"):
            seen = "return [...arguments[0].querySelectorAll('img')].filter(e => e.checkVisibility())"
            seen += ".map(e => e.src).join() + (arguments[0].querySelector('input[type=range]') || {value: ''}).value"
            control = player.find_element(By.CSS_SELECTOR, "input[type=range], [tabindex]")
            browser.execute_script("arguments[0].scrollIntoView(); arguments[0].focus()", control)
            control.send_keys(Keys.HOME)
            first = browser.execute_script(seen, player)
            control.send_keys(Keys.ARROW_RIGHT)
            second = browser.execute_script(seen, player)
            control.send_keys(Keys.ARROW_LEFT)
            assert second != first == browser.execute_script(seen, player), page
