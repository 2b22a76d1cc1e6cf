//! A real headless Chromium, controlled through chromedriver.

use std::{
    env,
    io::{ErrorKind, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use super::{eventually, scratch::Scratch};

/// A shell script that starts the driver on a free port, and kills it with all its browsers when its standard
/// input closes, which happens when the test ends for any reason.
const DRIVER: &str = r"
chromedriver --port=0 </dev/null &
cat >/dev/null
kill -KILL 0
";

/// Long, because starting Chromium takes time on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// One browser with one page.
pub(crate) struct Browser {
    page: Client,
    // The order matters: the profile is removed after the browser, which writes into it, has ended.
    _driver: Driver,
    _profile: Scratch,
}

/// A process group of the shell, chromedriver, and its browsers.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Browser {
    /// Opens a browser. Returns `None` if chromedriver is not installed; in CI, that is a failure.
    pub(crate) async fn open() -> Option<Self> {
        if let Err(missing) = Command::new("chromedriver").arg("--version").output() {
            assert_eq!(missing.kind(), ErrorKind::NotFound, "chromedriver: {missing}");
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "chromedriver is not installed");
            // Do not use a print macro: the test harness would capture the message.
            let skipped = b"SKIPPED: a test in the browser, for there is no chromedriver; on \
                            Debian: apt-get install chromium chromium-driver\n";
            std::io::stderr().write_all(skipped).unwrap();
            return None;
        }
        let profile = Scratch::new();
        let (driver, port) = driver(&profile).await;
        let mut page = ClientBuilder::new(HttpConnector::new());
        page.capabilities(capabilities(&profile));
        let address = format!("http://127.0.0.1:{port}");
        let page = timeout(DEADLINE, page.connect(&address)).await.expect("a browser starts");
        let page = page.unwrap();
        Some(Self { page, _driver: driver, _profile: profile })
    }

    pub(crate) async fn goto(&self, url: &str) {
        timeout(DEADLINE, self.page.goto(url)).await.expect("the page loads").unwrap();
    }

    /// Runs a script, and returns its result.
    pub(crate) async fn eval(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until a script returns the expected value.
    pub(crate) async fn until(&self, script: &str, expected: Value) {
        let mut last = Value::Null;
        let reached = eventually(script, async || {
            last = self.eval(script).await;
            (last == expected).then_some(())
        });
        let reached = timeout(Duration::from_secs(110), reached).await.is_ok();
        assert!(reached, "{script}\n is        {last}\n and not   {expected}");
    }

    pub(crate) async fn click(&self, css: &str) {
        self.page.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let field = self.page.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }
}

async fn driver(profile: &Scratch) -> (Driver, u16) {
    let mut shell = Command::new("sh");
    shell.args(["-c", DRIVER]).process_group(0).env("TMPDIR", profile.path());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut driver = Driver(shell.spawn().unwrap());
    let out = tokio::process::ChildStdout::from_std(driver.0.stdout.take().unwrap()).unwrap();
    let mut lines = BufReader::new(out).lines();
    let port = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("chromedriver starts");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return port.trim_end_matches('.').parse().expect("a port is a number");
            }
        }
    };
    let port = timeout(DEADLINE, port).await.expect("chromedriver prints its port");
    // Read the rest of its output, so that it does not block.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (driver, port)
}

fn capabilities(profile: &Scratch) -> serde_json::Map<String, Value> {
    let profile = format!("--user-data-dir={}", profile.path().join("profile").display());
    let args = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-breakpad",
        "--disable-component-update",
        "--disable-sync",
        &profile,
    ];
    let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": args } });
    wanted.as_object().unwrap().clone()
}
