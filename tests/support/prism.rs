//! Prism between a client and a stand-in: both sides are held to the vendor's own specification, by code that is
//! neither's.
//!
//! It answers 422 to a request that the specification does not have, and 500 in place of such a reply. The
//! specifications are the vendors' and not in this repository; without them these tests say so and pass. What prism
//! can't check: which credential came, error statuses that a specification leaves out, and null where one has forgotten
//! `nullable`.

use std::{
    env, fs,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

/// Where the specifications are, unless `RESEAL_SPECS` says.
const SPECS: &str = "../shared/specs";

/// What is installed, for prism and for those who check GraphQL.
const PACKAGES: [&str; 2] = ["@stoplight/prism-cli@5.16.0", "graphql@16.15.0"];

/// Ends prism when our end of its input is closed, which it is when we are gone, whichever way.
const SUPERVISOR: &str = r#""$@" </dev/null & server=$!; cat >/dev/null; kill "$server"; wait"#;

/// A running proxy; stops on drop.
pub(crate) struct Prism {
    supervisor: Child,
    url: String,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Prism {
    /// Puts prism, with the specification `file`, before the server at `upstream`; `None`, said aloud, where there are
    /// no specifications.
    pub(crate) fn before(file: &str, upstream: &str) -> Option<Self> {
        let spec = spec(file)?;
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(tools().join("node_modules/.bin/prism"))
            .args(["proxy", "--errors", "--port", "0"])
            .arg(spec)
            .arg(upstream)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let mut lines = BufReader::new(supervisor.stdout.take().expect("it is piped")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("Prism is listening on ").map(|(_, url)| url.trim().to_owned()))
            .expect("prism ended before it listened");
        let violations = Arc::<Mutex<Vec<String>>>::default();
        let seen = violations.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.contains('✖')) {
                seen.lock().expect("no holder panics").push(line);
            }
        });
        Some(Self { supervisor, url, violations })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it found wrong so far, a request each.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no holder panics").clone()
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().expect("the supervisor is our child");
    }
}

/// The specification `file`, or `None`, said aloud.
pub(crate) fn spec(file: &str) -> Option<PathBuf> {
    let folder = env::var_os("RESEAL_SPECS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(SPECS), PathBuf::from);
    let spec = folder.join(file);
    if spec.exists() {
        return Some(spec);
    }
    // Not println!, which nobody sees of a test that passes.
    writeln!(
        io::stderr(),
        "SKIPPED: no {} (RESEAL_SPECS names the folder of specifications)",
        spec.display()
    )
    .expect("stderr takes a line");
    None
}

/// The folder whose `node_modules` has [`PACKAGES`], installed once.
pub(crate) fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-prism");
        fs::create_dir_all(&folder).expect("target can be written");
        let lock = File::create(folder.join("lock")).expect("the folder was just made");
        lock.lock().expect("a lock on a file of our own");
        // Written last: an installation that was interrupted is begun again.
        let stamp = folder.join("installed");
        let wanted = PACKAGES.join(" ");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return folder;
        }
        let installed = Command::new("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-save",
                "--silent",
                "--prefix",
            ])
            .arg(&folder)
            .args(PACKAGES)
            .status()
            .expect("npm runs: the specifications are checked with prism");
        assert!(installed.success(), "npm could not install {wanted}");
        fs::write(&stamp, wanted).expect("the folder can be written");
        folder
    })
}
