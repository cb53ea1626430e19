//! A machine's configuration with other URLs in it: everything else stays, entry by entry.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroizing;

use crate::secret::SecretText;

/// URLs that take the place of others.
#[derive(Debug)]
pub(super) struct Replacement {
    /// Values that are replaced, whole, and by what.
    pub(super) pairs: Vec<(SecretText, SecretText)>,
    /// A variable that has `new` whatever stood there, if the machine has that variable.
    pub(super) variable: String,
    /// The URL.
    pub(super) new: SecretText,
}

impl Replacement {
    /// What takes the place of a value.
    fn of(&self, value: &str) -> Option<&SecretText> {
        let value = value.trim_end_matches(['\n', '\r']);
        self.pairs.iter().find(|(old, _)| old.expose() == value).map(|(_, new)| new)
    }

    /// What undoes it; nothing where no old value is known.
    pub(super) fn reversed(self) -> Option<Self> {
        let pairs: Vec<_> = self.pairs.into_iter().map(|(old, new)| (new, old)).collect();
        let new = SecretText::new(pairs.first()?.1.expose().to_owned());
        Some(Self { pairs, variable: self.variable, new })
    }
}

/// Puts the new URLs where the old ones stand: in `env`, in the variables of processes, and in files that hold nothing
/// else. How many entries changed.
pub(super) fn replace(config: &mut Map<String, Value>, replacements: &[Replacement]) -> usize {
    let mut changed = config.get_mut("env").map_or(0, |env| in_variables(env, replacements));
    for process in entries(config.get_mut("processes")) {
        changed += process.get_mut("env").map_or(0, |env| in_variables(env, replacements));
    }
    for file in entries(config.get_mut("files")) {
        changed += usize::from(in_file(file, replacements));
    }
    changed
}

fn entries(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn in_variables(variables: &mut Value, replacements: &[Replacement]) -> usize {
    let mut changed = 0;
    for (name, value) in variables.as_object_mut().into_iter().flatten() {
        let Value::String(text) = value else { continue };
        let by_name = |one: &&Replacement| one.variable.eq_ignore_ascii_case(name);
        let new = replacements.iter().find_map(|one| one.of(text));
        let new = new.or_else(|| replacements.iter().find(by_name).map(|one| &one.new));
        if let Some(new) = new.filter(|new| new.expose() != text) {
            drop(Zeroizing::new(std::mem::replace(text, new.expose().to_owned())));
            changed += 1;
        }
    }
    changed
}

/// A file's content is base64 in `raw_value`.
fn in_file(file: &mut Value, replacements: &[Replacement]) -> bool {
    let Some(Value::String(raw)) = file.get_mut("raw_value") else { return false };
    let Some(text) = STANDARD.decode(raw.as_bytes()).ok().map(Zeroizing::new) else { return false };
    let Ok(text) = std::str::from_utf8(&text) else { return false };
    let Some(new) = replacements.iter().find_map(|one| one.of(text)) else { return false };
    let ending = &text[text.trim_end_matches(['\n', '\r']).len()..];
    let new = Zeroizing::new([new.expose(), ending].concat());
    *raw = STANDARD.encode(new.as_bytes());
    true
}

/// Every text of the configuration that is a URL of one of these schemes: of `env`, of processes, and of files.
pub(super) fn urls(config: &Value, schemes: &[&str]) -> Vec<(String, SecretText)> {
    let mut found = Vec::new();
    let mut look = |name: &str, text: &str| {
        let text = text.trim_end_matches(['\n', '\r']);
        if Url::parse(text).is_ok_and(|url| schemes.contains(&url.scheme())) {
            found.push((name.to_owned(), SecretText::new(text.to_owned())));
        }
    };
    let list = |name: &str| config[name].as_array().map_or(&[][..], Vec::as_slice);
    let of_processes = list("processes").iter().map(|process| &process["env"]);
    for variables in [&config["env"]].into_iter().chain(of_processes) {
        for (name, value) in variables.as_object().into_iter().flatten() {
            value.as_str().into_iter().for_each(|text| look(name, text));
        }
    }
    for file in list("files") {
        let raw = file["raw_value"].as_str().and_then(|raw| STANDARD.decode(raw).ok()).map(Zeroizing::new);
        if let Some(text) = raw.as_ref().and_then(|raw| std::str::from_utf8(raw).ok()) {
            look(file["guest_path"].as_str().unwrap_or_default(), text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OLD: &str = "postgresql://owner:old@ep-1.eu.neon.tech/app";
    const NEW: &str = "postgresql://owner:new@ep-1.eu.neon.tech/app";
    const OTHER_OLD: &str = "postgresql://owner:old@ep-1-pooler.eu.neon.tech/app";
    const OTHER_NEW: &str = "postgresql://owner:new@ep-1-pooler.eu.neon.tech/app";

    fn secret(text: &str) -> SecretText {
        SecretText::new(text.to_owned())
    }

    fn replaced(config: &Value) -> (Value, usize) {
        let mut config = config.clone();
        let changed = replace(config.as_object_mut().unwrap(), &replacements());
        (config, changed)
    }

    fn replacements() -> [Replacement; 2] {
        let database = Replacement {
            pairs: vec![(secret(OLD), secret(NEW)), (secret(OTHER_OLD), secret(OTHER_NEW))],
            variable: "DATABASE_URL".to_owned(),
            new: secret(NEW),
        };
        let (variable, new) = ("REDIS_URL".to_owned(), secret("redis://:b@r"));
        [database, Replacement { pairs: vec![], variable, new }]
    }

    #[test]
    fn only_the_urls_change() {
        let file = |text: &str| json!({"guest_path": "/url", "raw_value": STANDARD.encode(text)});
        let before = json!({
            "image": "registry.fly.io/tenant:1",
            "env": {
                "DATABASE_URL": "postgresql://who:knows@elsewhere/db", "READ_URL": OLD, "REDIS_URL": "redis://:a@r",
                "OTHER_URL": "postgresql://owner:old@ep-2.eu.neon.tech/app", "TENANT_KEY": "k", "PORT": 8080,
            },
            "processes": [{"cmd": ["serve"], "env": {"PRIMARY": OTHER_OLD, "KEEP": "1"}}],
            "files": [file(&format!("{OLD}\n")), file("key"), {"guest_path": "/s", "secret_name": "S"}],
            "mounts": [{"volume": "vol_1", "path": "/data"}],
            "metadata": {"a": "b"},
        });
        let (after, changed) = replaced(&before);
        assert_eq!(changed, 5);
        let mut expected = before.clone();
        expected["env"]["DATABASE_URL"] = NEW.into();
        expected["env"]["READ_URL"] = NEW.into();
        expected["env"]["REDIS_URL"] = "redis://:b@r".into();
        expected["processes"][0]["env"]["PRIMARY"] = OTHER_NEW.into();
        expected["files"][0] = file(&format!("{NEW}\n"));
        assert_eq!(after, expected);
        assert_eq!(replaced(&after), (expected, 0), "twice is once");
    }

    #[test]
    fn what_was_replaced_can_be_put_back() {
        let before = json!({
            "env": {"DATABASE_URL": OLD, "POOLED_URL": OTHER_OLD, "REDIS_URL": "redis://:a@r"},
            "files": [{"raw_value": STANDARD.encode(OLD)}],
        });
        let (mut config, _) = replaced(&before);
        let back: Vec<_> = replacements().into_iter().filter_map(Replacement::reversed).collect();
        replace(config.as_object_mut().unwrap(), &back);
        let mut expected = before;
        // The old one is not known.
        expected["env"]["REDIS_URL"] = "redis://:b@r".into();
        assert_eq!(config, expected);
    }

    #[test]
    fn a_machine_without_the_variable_does_not_get_it() {
        let config = json!({"env": {"PORT": "1"}});
        assert_eq!(replaced(&config), (config.clone(), 0));
        assert_eq!(replaced(&json!({})), (json!({}), 0));
        let odd = json!({"env": "text", "processes": {}, "files": [1, {"raw_value": "%"}]});
        assert_eq!(replaced(&odd), (odd.clone(), 0));
    }

    #[test]
    fn urls_are_found_wherever_they_stand() {
        let raw = STANDARD.encode(OLD);
        let config = json!({
            "env": {"A": OLD, "B": "x", "C": "redis://:a@r"},
            "processes": [{"env": {"D": NEW}}],
            "files": [{"guest_path": "/e", "raw_value": raw}],
        });
        let names: Vec<_> =
            urls(&config, &["postgres", "postgresql"]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "D", "/e"]);
        assert!(urls(&json!(null), &["postgres"]).is_empty());
    }
}
