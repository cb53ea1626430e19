//! Flags, then the environment, then the file; and no secret where others can read it.

use super::operator::Operator;

fn setting(operator: &Operator, args: &[&str], name: &str) -> (String, String) {
    let config = operator.reseal(&[&["config", "--output", "json"], args].concat()).exits(0).json();
    let setting = &config["settings"][name];
    let texts = setting["value"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    (texts.collect::<Vec<_>>().join("|"), setting["origin"].as_str().unwrap().to_owned())
}

#[test]
fn each_layer_hides_those_below_and_is_named() {
    let mut operator = Operator::new();
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(setting(&operator, &[], "workers"), pair("2", "default"));
    operator.file("reseal.toml", "workers = 3\ncolumn = [\"a\", \"b\"]\nseal-plaintext = true\n", 0o644);
    assert_eq!(setting(&operator, &[], "workers"), pair("3", "reseal.toml"));
    assert_eq!(setting(&operator, &[], "seal-plaintext"), pair("true", "reseal.toml"));
    operator.set("RESEAL_WORKERS", "4");
    operator.set("RESEAL_COLUMN", "c, d,e");
    assert_eq!(setting(&operator, &[], "workers"), pair("4", "RESEAL_WORKERS"));
    assert_eq!(setting(&operator, &[], "column"), pair("c|d|e", "RESEAL_COLUMN"));
    assert_eq!(setting(&operator, &["--workers", "5"], "workers"), pair("5", "flag"));
    assert_eq!(setting(&operator, &["--column", "f"], "column"), pair("f", "flag"));
    operator.file("other.toml", "table = \"app.tenants\"\n", 0o644);
    assert_eq!(setting(&operator, &["--config", "other.toml"], "table"), pair("app.tenants", "other.toml"));
}

#[test]
fn a_password_is_masked_or_refused() {
    let mut operator = Operator::new();
    operator.guard("hunter2");
    let url = "postgres://u:hunter2@localhost/db";
    let refused = operator.reseal(&["status", "--database-url", url]).exits(2);
    assert_eq!(
        refused.err,
        "error: --database-url holds a password, which others could read\n\
         hint: set DATABASE_URL, or name where the URL is: env:NAME or file:PATH\n"
    );
    operator.reseal(&["status", "--database-url", "postgres://u@localhost/db?password=hunter2"]).exits(2);
    operator.file("reseal.toml", &format!("database-url = \"{url}\"\n"), 0o600);
    let refused = operator.reseal(&["status"]).exits(2);
    assert!(
        refused.err.starts_with("error: database-url in reseal.toml holds a password"),
        "{}",
        refused.err
    );
    operator.file("reseal.toml", "", 0o600);
    operator.set("DATABASE_URL", url);
    let shown = operator.reseal(&["config"]).exits(0).out;
    assert!(shown.contains("postgres://u:***@localhost/db  (DATABASE_URL)"), "{shown}");

    operator.file("url", url, 0o644);
    let open = operator.reseal(&["status", "--database-url", "file:url"]).exits(2);
    assert!(open.err.contains("url is open to others (mode 0644)"), "{}", open.err);
    operator.reseal(&["status", "--database-url", "env:NOT_SET"]).exits(2);
    operator.reseal(&["status", "--database-url", "hunter2"]).exits(2);
}

#[test]
fn a_key_in_the_wrong_place_is_never_repeated() {
    let mut operator = Operator::new();
    let key = "f00dface".repeat(8);
    operator.guard(&key);
    operator.guard("tr0ub4dor&3");
    for args in [
        vec!["run", "--new", &key],
        vec!["run", "--old", &key, "--new", "local-kms:keyring.json"],
        vec!["run", "--new", &format!("static:env:{key}")],
        vec!["run", &key],
        vec![&key],
        vec!["run", &format!("--{key}")],
        vec!["run", &format!("--new-key={key}")],
        vec!["run", "--format", &key, "--new", "local-kms:keyring.json"],
        vec!["run", "--workers", &key, "--new", "local-kms:keyring.json"],
        vec!["run", "--tls", &key],
        vec!["config", "--new", "tr0ub4dor&3"],
        vec!["keygen", "--form", &key],
        vec!["completions", &key],
    ] {
        operator.reseal(&args).exits(2);
    }
    for file in [
        format!("new = \"{key}\"\n"),
        format!("{key} = 1\n"),
        format!("new = {key}\n"),
        format!("workers = \"{key}\"\n"),
        format!("output = \"{key}\"\n"),
        "new = [\"tr0ub4dor&3\"]\n".to_owned(),
    ] {
        operator.file("reseal.toml", &file, 0o600);
        operator.reseal(&["run"]).exits(2);
    }
    operator.file("reseal.toml", "tabel = \"t\"\n", 0o600);
    assert_eq!(
        operator.reseal(&["status"]).exits(2).err,
        "error: reseal.toml has an unknown key, tabel\nhint: reseal config lists the settings\n"
    );
    operator.file("reseal.toml", "", 0o600);
    operator.set("RESEAL_NEW", &key);
    operator.reseal(&["config"]).exits(2);
    operator.reseal(&["run"]).exits(2);
}

#[test]
fn settings_of_vendors_are_tables_of_the_file_and_hold_no_secret() {
    let mut operator = Operator::new();
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(setting(&operator, &[], "fly-app"), pair("molecule-cp", "default"));
    operator.file(
        "reseal.toml",
        "[providers.fly]\napp = \"cp\"\ntoken = \"file:fly-token\"\n\n\
         [providers.control_plane]\nurl = \"https://cp.example\"\ncheckout_org = \"acme\"\n",
        0o644,
    );
    assert_eq!(setting(&operator, &[], "fly-app"), pair("cp", "reseal.toml"));
    assert_eq!(setting(&operator, &[], "fly-token"), pair("file:fly-token", "reseal.toml"));
    assert_eq!(setting(&operator, &[], "checkout-org"), pair("acme", "reseal.toml"));
    operator.set("RESEAL_FLY_APP", "other");
    operator.set("RESEAL_FLY_TOKEN", "fo1_s3cret");
    operator.guard("fo1_s3cret");
    assert_eq!(setting(&operator, &[], "fly-app"), pair("other", "RESEAL_FLY_APP"));
    assert_eq!(setting(&operator, &[], "fly-token"), pair("env:RESEAL_FLY_TOKEN", "RESEAL_FLY_TOKEN"));
    let words = ["config", "--fly-app", "third"];
    assert!(operator.reseal(&words).exits(2).err.contains("no option --fly-app"));

    operator.guard("re_live");
    for (file, said) in [
        (
            "[providers.resend]\ntoken = \"re_live\"\n",
            "providers.resend.token in reseal.toml names where a secret is kept",
        ),
        ("[providers.resend]\ntokn = \"re_live\"\n", "reseal.toml has an unknown key, providers.resend.tokn"),
        ("[providers.mailer]\ntoken = \"env:A\"\n", "reseal.toml has an unknown key, providers.mailer.token"),
        ("resend-token = \"re_live\"\n", "reseal.toml has an unknown key, resend-token"),
        ("providers = 1\n", "reseal.toml has an unknown key, providers"),
        ("state-url = \"postgres://u:re_live@localhost/db\"\n", "state-url in reseal.toml holds a password"),
    ] {
        operator.file("reseal.toml", file, 0o644);
        let refused = operator.reseal(&["config"]).exits(2);
        assert!(refused.err.contains(said), "{file}: {}", refused.err);
    }
}
