"""Print the whole book to one PDF file: its pages one after the other in one HTML file, through headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urldefrag

from bs4 import BeautifulSoup

from project import BUILD, Failure, contents

#: Seconds that Chromium may take, most of them for setting the equations.
LIMIT = 600
STYLE = """
@page { size: A4; margin: 18mm 16mm }
body { background: white; font-size: 10.5pt; padding: 0 }
article { break-before: page; max-width: none; overflow: visible }
h1 { font-size: 22pt } h2 { font-size: 15pt } h3 { font-size: 12pt }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8.5pt }
.output, .rln-figure, .pst-scrollable-table-container { overflow: visible !important }
figure, img, table, mjx-container[display=true] { break-inside: avoid }
table { font-size: 9pt; width: auto; max-width: 100% }
h1, h2, h3 { break-after: avoid }
.headerlink, .copybtn, .toctree-wrapper, summary { display: none !important }
.rln-player .rln-frame { width: 49% }
.contents { columns: 1; font-size: 12pt; line-height: 1.7 }
"""


def find_browser() -> str:
    """The Chromium that prints. Raises Failure without one."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise Failure("Chromium prints the PDF file, and is not here: install it (Debian: apt install chromium).")
    return browser


def print_book(html: Path) -> Path:
    """Print the rendered book of the folder ``html``; returns the PDF file. Raises Failure without a Chromium."""
    browser = find_browser()
    target, partial = BUILD / "rlnlib-book.pdf", BUILD / "rlnlib-book.partial.pdf"
    page = BUILD / "print.html"
    page.write_text(join_pages(html), encoding="utf-8")
    print("Printing the book.", flush=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={profile}", "--no-first-run", "--allow-file-access-from-files"]
        command += ["--no-pdf-header-footer", "--generate-pdf-document-outline", f"--print-to-pdf={partial}"]
        command += ["--virtual-time-budget=300000", page.as_uri()]  # until MathJax has set the equations
        try:
            done = subprocess.run(command, capture_output=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise Failure(f"Chromium took more than {LIMIT} s to print the book.") from None
    if done.returncode or not partial.exists():
        raise Failure(f"Chromium could not print the book:\n{done.stderr.decode(errors='replace')[-2000:]}")
    os.replace(partial, target)
    print(f"{target.stat().st_size / 1e6:.0f} MB.", flush=True)
    return target


def join_pages(html: Path) -> str:
    """All pages of the book as one HTML page: each anchor under its page's name, and links within the book to them."""
    listed, articles, head = [], [], None
    for entry in contents():
        soup = BeautifulSoup((html / f"{entry}.html").read_text(encoding="utf-8"), "html.parser")
        head = head or soup.head
        article = soup.find("article")
        article["id"] = name_anchor(entry)
        for element in article.find_all(True):
            if element.get("id"):
                element["id"] = name_anchor(entry, element["id"])
            if element.get("href"):
                element["href"] = redirect(entry, element["href"])
            if source := element.get("src", ""):
                element["src"] = absolute(html, entry, source)
        for folded in article.find_all("details"):  # solutions are printed, folded plotting code is not
            if "content" in folded.summary.get_text():
                folded["open"] = ""
            else:
                folded.decompose()
        listed.append((article["id"], article.h1.get_text().removesuffix("#")))
        articles.append(str(article))
    for element in head.find_all(True):
        for key in ("href", "src"):
            if element.get(key, "").startswith("../_static"):
                element[key] = absolute(html, contents()[0], element[key])
    lines = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in listed)
    title = head.title.get_text()
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>{head.decode_contents()}'
        f"<style>{STYLE}</style></head><body><h1>{title.split(' — ')[-1]}</h1><ul class='contents'>{lines}</ul>"
        f"{''.join(articles)}</body></html>"
    )


def absolute(html: Path, entry: str, source: str) -> str:
    """The address of a file that a page names by its place beside the page; others are returned as they are."""
    file, *version = source.split("?")
    if re.match(r"[a-z]+:", source):
        return source
    path = (html / entry).parent.joinpath(file).resolve()
    if not path.exists():
        raise Failure(f"{entry} shows {source}, and there is no {path}.")
    return "?".join([path.as_uri(), *version])


def name_anchor(entry: str, anchor: str = "") -> str:
    """The anchor of a page, or of a place on it, in the joined page."""
    return re.sub(r"\W", "-", entry) + (f"--{anchor}" if anchor else "")


def redirect(entry: str, target: str) -> str:
    """Where a link of a page leads in the joined page; links to elsewhere stay."""
    path, anchor = urldefrag(target)
    if re.match(r"\w+:|//", target):
        return target
    other = entry if not path else os.path.normpath(os.path.join(os.path.dirname(entry), path)).removesuffix(".html")
    return f"#{name_anchor(other, anchor)}"
