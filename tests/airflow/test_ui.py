"""
`make airflow`: the web UI of a real Airflow, in a browser.

These tests take the screenshots of the README and of the pages in ``docs/``. They are written to a temporary folder, unless ``SCREENSHOTS`` is set.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from airflow_pinecone_upsert.hooks import connection_form
from airflow_pinecone_upsert.links import console_url

from .programs import program

pytestmark = [pytest.mark.slow, pytest.mark.browser]

TIMEOUT_S = 180
ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@dataclass
class WebUI:
    """
    A running `make airflow`.

    :param url: Its URL.
    :param printed: What it printed while it started.
    :param api: A client of its REST API, with the same user as the UI.
    """

    url: str
    printed: str
    api: httpx.Client


@pytest.fixture(scope="module")
def airflow_ui():
    """Start the web UI on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    process = subprocess.Popen(
        [sys.executable, ROOT / "dev" / "airflow_ui.py"],
        env={**environment, "PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    assert "Ctrl-C" in lines[-1], "".join(lines)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as api:
        api.headers["Authorization"] = f"Bearer {api.get('/auth/token').json()['access_token']}"
        yield WebUI(url, "".join(lines), api)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def wait_for_run(api, dag_id, run_id=None):
    """Wait until a run of a DAG has finished, by default any run. Return its path and Airflow's description of it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        runs = api.get(f"/api/v2/dags/{dag_id}/dagRuns").json()["dag_runs"]
        for run in runs:
            if run["dag_run_id"] == (run_id or run["dag_run_id"]) and run["state"] not in ("queued", "running"):
                return f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}", run
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)


@pytest.fixture(scope="module")
def run_path(airflow_ui):
    """Trigger the DAG `upsert_parquet`, wait until it has finished, and return the path of its run."""
    response = airflow_ui.api.post("/api/v2/dags/upsert_parquet/dagRuns", json={"logical_date": None})
    assert response.is_success, response.text
    path, _ = wait_for_run(airflow_ui.api, "upsert_parquet", response.json()["dag_run_id"])
    return path


def upserted_count(api, run_path):
    return int(api.get(f"/api/v2{run_path}/taskInstances/upsert/xcomEntries/upsertedCount").json()["value"])


def test_it_starts_with_a_connection_and_the_example_dags(airflow_ui):
    assert f"Airflow      {airflow_ui.url}" in airflow_ui.printed
    assert re.search(r"Emulator     http://127\.0\.0\.1:\d+", airflow_ui.printed)
    connections = airflow_ui.api.get("/api/v2/connections").json()["connections"]
    assert [connection["connection_id"] for connection in connections] == ["pinecone_default"]
    assert connections[0]["password"] == "***"
    assert airflow_ui.api.get("/api/v2/importErrors").json()["total_entries"] == 0


def test_a_triggered_run_succeeds(airflow_ui, run_path):
    assert airflow_ui.api.get(f"/api/v2{run_path}").json()["state"] == "success"
    assert upserted_count(airflow_ui.api, run_path) >= 1_400


def test_the_asset_event_starts_the_scheduled_dag(airflow_ui, run_path):
    count = upserted_count(airflow_ui.api, run_path)
    path, run = wait_for_run(airflow_ui.api, "react_to_upsert")
    assert (run["state"], run["run_type"]) == ("success", "asset_triggered")
    output = airflow_ui.api.get(f"/api/v2{path}/taskInstances/announce/xcomEntries/return_value").json()["value"]
    assert f"upsert_parquet: {count} records in " in str(output)


# In a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Start Debian's chromium with a new profile, and return selenium's driver."""
    from selenium import webdriver

    browser, driver = program("chromium"), program("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as started:
        yield started


class Page:
    """
    A page in the browser. Every method waits until the element is there.

    :param browser: Selenium's driver.
    :param url: The URL of the web UI.
    :param folder: Where screenshots are written.
    """

    def __init__(self, browser, url, folder):
        self.browser = browser
        self.url = url
        self.folder = folder

    def open(self, path, *, width, height):
        self.browser.set_window_size(width, height)
        self.browser.get(f"{self.url}{path}")

    def find(self, xpath):
        return self._wait_for("visibility_of_element_located", xpath)

    def click(self, xpath):
        self._wait_for("element_to_be_clickable", xpath).click()

    def enter(self, name, text):
        self.find(f"//*[@name='{name}']").send_keys(text)

    def hover(self, xpath):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).move_to_element(self.find(xpath)).perform()

    def take_screenshot(self, name, element=None):
        path = str(self.folder / f"{name}.png")
        assert element.screenshot(path) if element else self.browser.save_screenshot(path)

    def _wait_for(self, condition, xpath):
        from selenium.webdriver.support import expected_conditions
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, TIMEOUT_S).until(getattr(expected_conditions, condition)(("xpath", xpath)))


@pytest.fixture(scope="module")
def signed_in(chromium, airflow_ui):
    """Sign in and return the browser. After that, Airflow 3.1 shows its home page, not the requested page."""
    chromium.get(airflow_ui.url)
    Page(chromium, airflow_ui.url, None).find("//*[.='Home']")
    return chromium


@pytest.fixture
def page(signed_in, airflow_ui, tmp_path):
    return Page(signed_in, airflow_ui.url, SCREENSHOTS if os.environ.get("SCREENSHOTS") else tmp_path)


FORM = "//*[@role='dialog']"


def open_form(page, connection_id):
    """Create a connection of our type. One section of the form is open at a time, first *Standard Fields*."""
    page.open("/connections", width=1_000, height=1_300)
    page.click("//button[normalize-space()='Add Connection']")
    page.enter("connection_id", connection_id)
    page.find(f"{FORM}//input[@role='combobox']").send_keys("Pinecone (ups")
    page.click("//*[@role='option'][.='Pinecone (upsert)']")
    page.find("//*[@name='host']")
    return page.find(FORM)


def open_extra_fields(page):
    page.click("//button[normalize-space()='Extra Fields']")
    page.find("//*[@name='element_proxy']")


def fill_in(page, **fields):
    for name, text in fields.items():
        page.enter(name, text)


def host_and_port(index):
    """Return the fields that a user fills in for an index of the emulator."""
    host, _, port = index.url.rpartition(":")
    return {"host": host, "port": port}


def press_test(page, connection_id):
    """Press Test in the connection's row. Return title and text of the notification."""
    page.click(f"//tr[td='{connection_id}']//button[@aria-label='Test Connection']")
    toast = "//*[@data-scope='toast'][@data-part='root'][contains(., 'Test Connection')]"
    return [page.find(f"{toast}//*[@data-part='{part}']").text for part in ("title", "description")]


def save_and_test(page, connection_id):
    page.click(f"{FORM}//button[normalize-space()='Save']")
    return press_test(page, connection_id)


def test_the_form_has_a_label_and_a_help_text_for_each_field(page):
    form = open_form(page, "pinecone_articles")
    for name, label in connection_form.LABELS.items():
        assert page.find(f"//*[@name='{name}']").get_attribute("placeholder") == connection_form.PLACEHOLDERS[name]
        assert label in form.text
    assert page.find("//*[@name='password']").get_attribute("type") == "password"
    for name in connection_form.HIDDEN:
        assert not page.browser.find_elements("name", name)
    fill_in(page, host="articles-abc123.svc.aped-4627-b74a.pinecone.io", port="443", password="x" * 40)
    page.take_screenshot("connection-form", form)
    open_extra_fields(page)
    for field in connection_form.EXTRA_FIELDS:
        assert page.find(f"//*[@name='element_{field.name}']").is_enabled()
        assert field.label in form.text
        assert field.help in form.text
    fill_in(page, element_namespace="articles", element_timeout_s="30")
    page.take_screenshot("connection-form-extra", form)


def test_a_connection_is_filled_in_saved_and_tested(page, airflow_ui, pinecone_index_factory):
    index = pinecone_index_factory(dimension=256, api_key="pcsk_of-this-index")
    open_form(page, "articles")
    fill_in(page, **host_and_port(index), password=index.api_key)
    open_extra_fields(page)
    fill_in(page, element_namespace="articles", element_timeout_s="30")
    assert save_and_test(page, "articles") == [
        "Test Connection Successful",
        f"Reached {index.url}: 0 records, dimension 256, metric cosine.",
    ]
    extra = json.loads(airflow_ui.api.get("/api/v2/connections/articles").json()["extra"])
    assert {key: value for key, value in extra.items() if value is not None} == {
        "namespace": "articles",
        "timeout_s": 30,
    }
    assert index.api_key not in page.browser.page_source


def test_a_wrong_key_is_reported(page, pinecone_index_factory):
    index = pinecone_index_factory(dimension=256, api_key="pcsk_of-this-index")
    open_form(page, "mistaken")
    fill_in(page, **host_and_port(index), password="pcsk_of-another-index")
    title, message = save_and_test(page, "mistaken")
    assert title == "Test Connection Failed"
    assert "Invalid API Key" in message
    assert "Check the API key (the password of the Airflow connection)" in message
    assert "pcsk_of-another-index" not in page.browser.page_source


def test_the_default_connection_passes_its_test(page, airflow_ui):
    page.open("/connections", width=1_000, height=900)
    title, message = press_test(page, "pinecone_default")
    assert title == "Test Connection Successful"
    assert "dimension 256" in message


def open_task(page, run_path, view, *, height):
    page.open(f"{run_path.replace('dagRuns', 'runs')}/tasks/upsert/{view}", width=1_400, height=height)
    page.find("//*[.='Success']")


def test_the_page_of_a_finished_task_shows_its_output(page, run_path):
    open_task(page, run_path, "xcom", height=850)
    page.click("//button[@aria-label='Expand all extra JSON']")
    page.find("//span[.='\"upsertedCount\"']")  # it appears when the editor has loaded
    page.hover("//*[.='PineconeUpsertOperator']")  # away from the button, whose tooltip would cover the output
    page.take_screenshot("finished-task")


def test_the_page_of_a_finished_task_shows_its_progress(page, airflow_ui, run_path):
    pytest.importorskip("airflow.models.task_state_store", reason="the task state store needs Airflow 3.3")
    open_task(page, run_path, "task-state-store", height=750)
    for key, value in {"records": upserted_count(airflow_ui.api, run_path), "percent": 100, "etaSeconds": 0}.items():
        page.find(f"//tr[td='progress']//span[.='\"{key}\"']/following-sibling::span[.='{value}']")
    page.take_screenshot("finished-task-progress")


def test_the_page_of_a_finished_task_links_to_the_console(page, run_path):
    open_task(page, run_path, "details", height=850)
    link = page.find("//a[.='Pinecone console']").get_attribute("href")
    assert link == console_url("http://127.0.0.1")
