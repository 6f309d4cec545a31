"""The page in a real browser: drawn without a complaint or a request, usable, readable on a phone and in the dark."""

import csv
import time

import pytest
from browser import chromium, complaints, requested
from report_results import a_key_sweep, a_sweep, with_payload

from membench.report.page import page, run_views

DRAWN = """
return [...document.querySelectorAll('.slot')].filter(slot => !slot.hidden).map(slot => [
  slot.dataset.slot,
  slot.querySelectorAll('.main-svg .trace').length,
  slot.querySelectorAll('.main-svg .trace .point, .main-svg .trace .js-line').length,
])
"""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chrome(tmp_path_factory, downloads):
    with chromium(tmp_path_factory.mktemp("profile"), downloads) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Writes a page of result files once; its address."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def write(name, *results):
        if name not in made:
            made[name] = folder / f"{name}.html"
            made[name].write_bytes(page(run_views([(f"{name}.json", r) for r in results])).encode())
        return made[name].as_uri()

    return write


@pytest.fixture
def opened(chrome, address):
    """Opens a page, on a phone or in the dark if asked, and scrolls all of it past the eye."""

    def open_(name, *results, phone=False, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        if phone:
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        else:
            chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        complaints(chrome)
        requested(chrome)
        chrome.get(address(name, *results))
        slots = chrome.find_elements("css selector", ".slot")
        for slot in slots:
            chrome.execute_script("arguments[0].scrollIntoView()", slot)
            wait_for(chrome, "return arguments[0].hidden || arguments[0].querySelector('.main-svg') !== null", slot)
        return chrome

    return open_


def wait_for(chrome, script, *arguments, seconds=60):
    begin = time.monotonic()
    while not chrome.execute_script(script, *arguments):
        assert time.monotonic() - begin < seconds, f"never came true: {script}"
        time.sleep(0.02)


def cells(chrome, column):
    """The shown rows' values in a column of the raw table."""
    return chrome.execute_script(
        "const at = [...document.querySelectorAll('#cases th')].findIndex(h => h.textContent === arguments[0]);"
        "return [...document.querySelectorAll('#cases tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.cells[at].dataset.value ?? null)",
        column,
    )


def test_every_plot_is_drawn_without_complaint_or_request(opened):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    drawn = chrome.execute_script(DRAWN)
    assert {name for name, *_ in drawn} == {
        "pareto",
        "samples",
        "floors",
        "tokens",
        "keys",
        "utilization",
        "roofline",
        "memory",
    }
    assert all(traces and marks for _, traces, marks in drawn), drawn
    assert complaints(chrome) == []
    assert {url.split(":")[0] for url in requested(chrome)} <= {"file", "data", "blob"}
    assert len([url for url in requested(chrome) if url.startswith("file")]) <= 1


def test_the_policy_stops_what_would_leave_the_page(opened):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    asked = "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('left'), () => done('stopped'))"
    assert chrome.execute_async_script(asked) == "stopped"
    assert any("Content Security Policy" in line for line in complaints(chrome))


def test_another_point_shows_its_own_table_and_plots(opened):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    said = (
        "return [document.querySelector('.at.shown').textContent,"
        "JSON.stringify(document.querySelector('.slot[data-slot=samples] .plot').data[0].x)]"
    )
    before = chrome.execute_script(said)
    chrome.execute_script(
        "const s = document.querySelector('select.group'); s.selectedIndex = 1; s.dispatchEvent(new Event('change'))"
    )
    wait_for(chrome, f"{said.replace('return', 'const now =')}; return now[1] !== arguments[0]", before[1])
    assert chrome.execute_script(said)[0] != before[0]
    assert len(chrome.find_elements("css selector", '.run[data-run="0"] .at.shown')) == 2
    assert complaints(chrome) == []


def test_the_pareto_plot_takes_other_costs(opened):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    axes = """
    const { layout } = document.querySelector('.slot[data-slot=pareto] .plot');
    return [layout.xaxis.title.text, layout.yaxis.title.text]
    """
    assert chrome.execute_script(axes) == ["stored, GB", "step, ms"]
    chrome.execute_script(
        "const s = document.querySelector('.slot[data-slot=pareto] .choice');"
        "s.value = 'joules a token over stored, GB'; s.dispatchEvent(new Event('change'))"
    )
    assert chrome.execute_script(axes) == ["stored, GB", "joules a token"]


def test_filter_sort_and_csv(opened, downloads):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    assert len(cells(chrome, "arm")) == 16 + 4
    box = chrome.find_element("id", "filter")
    box.send_keys("Moe forward_back")
    assert set(cells(chrome, "arm")) == {"moe"}
    assert chrome.find_element("id", "count").text == "2 of 20 cases"
    box.clear()
    box.send_keys("memory")
    header = next(h for h in chrome.find_elements("css selector", "#cases th button") if h.text == "latency_ms_p50")
    for rising in (True, False):
        chrome.execute_script("arguments[0].click()", header)
        values = [float(v) for v in cells(chrome, "latency_ms_p50") if v is not None]
        assert values == sorted(values, reverse=not rising)
    chrome.find_element("id", "csv").click()
    path = downloads / "membench.csv"
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 60, "no CSV came"
        time.sleep(0.05)
    with path.open(newline="") as file:
        saved = list(csv.DictReader(file))
    assert [row["latency_ms_p50"] for row in saved] == cells(chrome, "latency_ms_p50")
    assert len(saved) == 11
    assert all("memory" in row["arm"] for row in saved)


def test_unknown_values_sort_last_either_way(opened):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep())
    header = next(h for h in chrome.find_elements("css selector", "#cases th button") if h.text == "step_ms")
    for _ in range(2):
        chrome.execute_script("arguments[0].click()", header)
        assert [v is None for v in cells(chrome, "step_ms")] == [False] * 19 + [True]


def test_a_script_in_every_string_never_runs(opened):
    dirty, _ = with_payload(a_sweep(tokens=(8, 64), modes=("forward",), rounds=1))
    chrome = opened("dirty", dirty)
    assert chrome.execute_script("return window.pwned === undefined")
    assert chrome.find_elements("css selector", ".plot svg a, img, main a[href^=javascript]") == []
    assert all(traces and marks for _, traces, marks in chrome.execute_script(DRAWN))
    shown = chrome.execute_script(
        "return document.querySelector('.slot[data-slot=samples] svg').parentNode.textContent"
    )
    assert "</script>" in shown  # a plot's label says it, as text
    assert complaints(chrome) == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requested(chrome))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(opened, dark):
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep(), phone=True, dark=dark)
    assert chrome.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    outside = """
    return [...document.querySelectorAll('main *')]
      .filter(e => !e.closest('.scroll, .plot') && e.getBoundingClientRect().right > innerWidth + 0.5)
      .map(e => e.outerHTML)
    """
    assert chrome.execute_script(outside) == []
    assert all(traces and marks for _, traces, marks in chrome.execute_script(DRAWN))
    assert complaints(chrome) == []


def test_long_names_do_not_widen_a_phones_page(opened):
    dirty, _ = with_payload(a_sweep(tokens=(8, 64), modes=("forward",), rounds=1))
    chrome = opened("dirty", dirty, phone=True)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == 390


def test_dark_and_light_follow_the_system_and_the_button(opened):
    colours = """
    const ink = getComputedStyle(document.querySelector('.plot .xtick text')).fill;
    return [getComputedStyle(document.body).backgroundColor,
      document.querySelector('.plot').layout.paper_bgcolor, ink]
    """
    chrome = opened("both", a_sweep(rounds=3), a_key_sweep(), dark=True)
    dark = chrome.execute_script(colours)
    assert dark[:2] == ["rgb(21, 24, 28)", "#15181c"]
    chrome.find_element("id", "theme").click()
    light = chrome.execute_script(colours)
    assert light[:2] == ["rgb(255, 255, 255)", "#ffffff"]
    assert light[2] != dark[2]
    scheme = {"name": "prefers-color-scheme", "value": "light"}
    chrome.find_element("id", "theme").click()
    chrome.find_element("id", "theme").click()
    assert chrome.execute_script(colours) == dark
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    wait_for(chrome, "return document.querySelector('.plot').layout.paper_bgcolor === '#ffffff'")
