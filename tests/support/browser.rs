//! A real browser: Chromium without a window, driven by chromedriver over the WebDriver protocol.
//!
//! Every test has its own. It ends with the test, however that ends: chromedriver is bound to this process, and
//! Chromium to chromedriver's pipe. When a test fails, what the browser showed is in `target/browser`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use super::{Program, cache, poll_for, report};

/// How long chromedriver, a command or a condition may take.
pub const LIMIT: Duration = Duration::from_secs(90);
/// A window as wide as a laptop's.
pub const WIDE: [u32; 2] = [1_280, 800];
/// The one that `scripts/test-deps.sh` installs.
const AXE: &str = "axe-4.12.1/axe.min.js";
/// How the protocol names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A key that writes nothing, as the protocol names it.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    Tab,
    Enter,
    Escape,
    Down,
    Up,
}

impl Key {
    fn code(self) -> char {
        match self {
            Key::Tab => '\u{e004}',
            Key::Enter => '\u{e007}',
            Key::Escape => '\u{e00c}',
            Key::Up => '\u{e013}',
            Key::Down => '\u{e015}',
        }
    }
}

/// A browser with one page, which must write no error to its console.
pub struct Browser {
    name: String,
    session: String,
    client: Client,
    // Both are dropped after the session has been closed.
    _driver: Program,
    _files: tempfile::TempDir,
}

impl Browser {
    /// For the test of this name, with a window of [`WIDE`], light, in English.
    pub fn start(name: &str) -> Browser {
        let files = tempfile::Builder::new().prefix("sla-ledger-browser-").tempdir().expect("a directory");
        let mut command = Command::new("chromedriver");
        // It chooses a free port and says which. Profiles go where they are removed.
        command.args(["--port=0", "--log-level=WARNING"]).env("TMPDIR", files.path());
        let mut driver = Program::spawn("chromedriver", command);
        driver.wait_for_log("started successfully on port ", LIMIT);
        let log = driver.log();
        let port = log.split("successfully on port ").nth(1).and_then(|rest| rest.split('.').next()).expect("its port");
        let client = Client::builder().no_proxy().timeout(LIMIT).build().expect("a client");
        let base = format!("http://127.0.0.1:{port}/session");
        let opened = ask(&client, Method::POST, &base, &capabilities()).unwrap_or_else(|error| panic!("{error}"));
        let session = format!("{base}/{}", opened["sessionId"].as_str().expect("a session"));
        let browser = Browser { name: name.into(), session, client, _driver: driver, _files: files };
        browser.resize(WIDE);
        browser
    }

    /// A command of the protocol: what it returns.
    #[track_caller]
    fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        let result = ask(&self.client, method, &format!("{}/{path}", self.session), body);
        result.unwrap_or_else(|error| panic!("{path}: {error}\nat {}", self.where_it_is()))
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.command(Method::POST, path, body)
    }

    /// A command of Chrome's own protocol.
    #[track_caller]
    pub fn chrome(&self, command: &str, parameters: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Opens an address and waits until it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("url", &json!({"url": url}));
    }

    /// Runs the body of a function on the page: its result.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// The path and the query of its address.
    #[track_caller]
    pub fn address(&self) -> String {
        self.evaluate("location.pathname + location.search").as_str().expect("an address").to_owned()
    }

    /// The value of an expression.
    #[track_caller]
    pub fn evaluate(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"), &[])
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait(&self, what: &str, expression: &str) {
        let holds = || (self.evaluate(expression) == json!(true)).then_some(());
        if poll_for(LIMIT, holds).is_none() {
            panic!("waited {LIMIT:?} in vain for: {what}\nat {}", self.where_it_is());
        }
    }

    /// The texts of all elements, as they are shown.
    #[track_caller]
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim());";
        let texts = self.run(script, &[json!(selector)]);
        texts.as_array().expect("texts").iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The text of the first one.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let first = self.texts(selector).into_iter().next();
        first.unwrap_or_else(|| panic!("no `{selector}` at {}", self.where_it_is()))
    }

    /// The first element.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// Clicks on the first one. It has to be where a mouse reaches it.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.post(&format!("element/{}/click", self.element(selector)), &json!({}));
    }

    /// The same, and waits until another page is loaded.
    #[track_caller]
    pub fn follow(&self, selector: &str) {
        self.leave(|| self.click(selector));
    }

    /// Does what leads to another page, and waits until that is loaded.
    #[track_caller]
    pub fn leave(&self, action: impl FnOnce()) {
        self.run("document.documentElement.dataset.left = 'no';", &[]);
        action();
        self.wait(
            "another page",
            "document.documentElement.dataset.left === undefined && document.readyState === 'complete'",
        );
    }

    /// Puts a text into a field, in place of what is there.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("element/{element}/clear"), &json!({}));
        self.post(&format!("element/{element}/value"), &json!({"text": text}));
    }

    /// Chooses an option by its value.
    #[track_caller]
    pub fn choose(&self, selector: &str, value: &str) {
        self.click(&format!("{selector} option[value=\"{value}\"]"));
    }

    /// A key, to whatever has the focus.
    #[track_caller]
    pub fn press(&self, key: Key) {
        self.keys(&key.code().to_string());
    }

    /// A text, typed key by key, to whatever has the focus.
    #[track_caller]
    pub fn keys(&self, text: &str) {
        let mut actions = Vec::new();
        for key in text.chars() {
            actions.extend(["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})));
        }
        self.post("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// Gives the page another size.
    #[track_caller]
    pub fn resize(&self, [width, height]: [u32; 2]) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chrome("Emulation.setDeviceMetricsOverride", &size);
    }

    /// The reader prefers a dark or a light page.
    #[track_caller]
    pub fn prefer(&self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.chrome("Emulation.setEmulatedMedia", &feature);
    }

    /// The languages it asks for, from the next page on.
    #[track_caller]
    pub fn accept_language(&self, languages: &str) {
        let agent = self.evaluate("navigator.userAgent");
        let value = json!({"userAgent": agent, "acceptLanguage": languages});
        self.chrome("Emulation.setUserAgentOverride", &value);
    }

    /// Whether pages may run scripts, from the next page on. Those of the test run all the same.
    #[track_caller]
    pub fn allow_scripts(&self, allowed: bool) {
        self.chrome("Emulation.setScriptExecutionDisabled", &json!({"value": !allowed}));
    }

    /// Where it puts what is downloaded.
    #[track_caller]
    pub fn download_to(&self, directory: &Path) {
        let behaviour = json!({"behavior": "allow", "downloadPath": directory});
        self.chrome("Browser.setDownloadBehavior", &behaviour);
    }

    /// Whether pages may do what needs the reader's permission.
    #[track_caller]
    pub fn permit(&self, what: &str, permitted: bool) {
        let state = if permitted { "granted" } else { "denied" };
        self.post("permissions", &json!({"descriptor": {"name": what}, "state": state}));
    }

    /// What a promise resolves to.
    #[track_caller]
    pub fn await_value(&self, promise: &str) -> Value {
        let script =
            format!("const done = arguments[arguments.length - 1]; {promise}.then(done, e => done(String(e)));");
        self.post("execute/async", &json!({"script": script, "args": []}))
    }

    /// The page as it is printed, as PDF.
    #[track_caller]
    pub fn print(&self) -> Vec<u8> {
        let pdf = self.post("print", &json!({"background": true}));
        BASE64_STANDARD.decode(pdf.as_str().expect("a document")).expect("base64")
    }

    /// The picture of the page, as PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        let picture = self.command(Method::GET, "screenshot", &Value::Null);
        BASE64_STANDARD.decode(picture.as_str().expect("a picture")).expect("base64")
    }

    /// What was written to the console since the last time: what violates the content policy, what could not be
    /// loaded, errors of scripts, and all that scripts write.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let lines = self.post("se/log", &json!({"type": "browser"}));
        let text = |line: &Value| format!("{} {}", line["level"], line["message"].as_str().unwrap_or_default());
        lines.as_array().expect("lines").iter().map(text).collect()
    }

    /// Asserts that nothing was.
    #[track_caller]
    pub fn assert_quiet(&self) {
        assert_eq!(self.console(), Vec::<String>::new(), "the console at {}", self.where_it_is());
    }

    /// Asserts that axe-core finds no violation of WCAG 2.2 A and AA, nor of what it calls good practice.
    #[track_caller]
    pub fn assert_accessible(&self) {
        if self.evaluate("typeof window.axe") != json!("object") {
            let path = cache().join(AXE);
            let axe = fs::read_to_string(&path);
            let axe = axe.unwrap_or_else(|error| panic!("{}: {error}: run `make test-deps`", path.display()));
            self.run(&axe, &[]);
        }
        let script = "const done = arguments[arguments.length - 1];
            window.axe.run(document, {resultTypes: ['violations']}).then(
                result => done(result.violations.map(({id, help, nodes}) => ({
                    id, help, nodes: nodes.slice(0, 5).map(({html, failureSummary}) => [html, failureSummary]),
                }))),
                error => done([{id: 'axe', help: String(error), nodes: []}]),
            );";
        let violations = self.post("execute/async", &json!({"script": script, "args": []}));
        let violations = violations.as_array().expect("violations");
        let mut text = String::new();
        for violation in violations {
            writeln!(text, "{}: {}", violation["id"], violation["help"]).expect("a string");
            for node in violation["nodes"].as_array().expect("nodes") {
                writeln!(text, "  {}\n    {}", node[0], node[1]).expect("a string");
            }
        }
        assert!(violations.is_empty(), "{} violations at {}\n{text}", violations.len(), self.where_it_is());
    }

    /// Asserts that the page is not wider than the window: what is, scrolls by itself.
    #[track_caller]
    pub fn assert_fits(&self) {
        let script = "const width = document.documentElement.clientWidth;
            const scrolls = e => e && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
            return [document.documentElement.scrollWidth > width,
                [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > width + 0.5 &&
                    !scrolls(e)).slice(0, 5).map(e => e.outerHTML.slice(0, 200))];";
        let result = self.run(script, &[]);
        assert_eq!(result[0], json!(false), "wider than the window: {:#}\nat {}", result[1], self.where_it_is());
    }

    fn where_it_is(&self) -> String {
        let url = ask(&self.client, Method::GET, &format!("{}/url", self.session), &Value::Null);
        url.map_or_else(|error| error, |url| url.as_str().unwrap_or_default().to_owned())
    }

    /// Keeps what it shows for whoever looks into a failure.
    fn keep(&self) -> Result<PathBuf, String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/browser");
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let get = |what: &str| ask(&self.client, Method::GET, &format!("{}/{what}", self.session), &Value::Null);
        let (picture, source) = (get("screenshot")?, get("source")?);
        let picture =
            BASE64_STANDARD.decode(picture.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        let path = directory.join(format!("{}.png", self.name));
        fs::write(&path, picture).map_err(|error| error.to_string())?;
        let source = source.as_str().unwrap_or_default();
        fs::write(path.with_extension("html"), source).map_err(|error| error.to_string())?;
        Ok(path)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let console = if std::thread::panicking() {
            match self.keep() {
                Ok(path) => report(&format!("{} showed {}: {}", self.name, self.where_it_is(), path.display())),
                Err(error) => report(&format!("{}: no picture: {error}", self.name)),
            }
            Vec::new()
        } else {
            self.console()
        };
        // Ends Chromium too.
        _ = ask(&self.client, Method::DELETE, &self.session, &Value::Null);
        assert_eq!(console, Vec::<String>::new(), "the console of {}", self.name);
    }
}

fn capabilities() -> Value {
    let arguments = [
        "--headless=new",
        // Chromium's own sandbox does not work for root; only our own pages are opened.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        // It ends when chromedriver does.
        "--remote-debugging-pipe",
        "--accept-lang=en-US",
        "--force-color-profile=srgb",
    ];
    let chrome = json!({"args": arguments, "binary": chromium()});
    let always = json!({
        "browserName": "chrome",
        "goog:chromeOptions": chrome,
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"pageLoad": 60_000, "script": 60_000},
    });
    json!({"capabilities": {"alwaysMatch": always}})
}

/// The first of those that there may be on the PATH.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().find_map(|name| {
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.exists())
    });
    found.unwrap_or_else(|| panic!("none of {} on the PATH: run `make test-deps`", names.join(", ")))
}

/// The value of a response, or what went wrong.
fn ask(client: &Client, method: Method, url: &str, body: &Value) -> Result<Value, String> {
    let mut request = client.request(method, url);
    if !body.is_null() {
        request = request.json(body);
    }
    let response = request.send().map_err(|error| error.to_string())?;
    let is_success = response.status().is_success();
    let mut answer: Value = response.json().map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    if is_success {
        return Ok(value);
    }
    Err(format!("{}: {}", value["error"].as_str().unwrap_or_default(), value["message"].as_str().unwrap_or_default()))
}
