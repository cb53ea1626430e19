//! The layers, and what comes of them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::ArgMatches;
use reseal::keyring::spec::KeySpec;

use super::{ConfigError, DatabaseUrl, Definition, Kind, SETTINGS, all, definition, place_in};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "reseal.toml";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// This file.
    File(PathBuf),
    /// Nowhere: the default.
    Default,
}

impl Origin {
    /// How a message names the setting `name` with this origin.
    pub(crate) fn describe(&self, name: &str) -> String {
        match self {
            Self::Flag => format!("--{name}"),
            Self::Environment(variable) => variable.clone(),
            Self::File(path) => format!("{name} in {}", path.display()),
            Self::Default => format!("the default of {name}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => f.write_str(variable),
            Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting's values and where they come from. One layer's list replaces that of the layers below.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Value {
    /// At least one.
    texts: Vec<String>,
    /// The layer.
    pub(crate) origin: Origin,
}

impl Value {
    /// The only value, or the first.
    pub(crate) fn text(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    /// All values.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// What every setting is.
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Value>,
    file: Option<PathBuf>,
}

impl Settings {
    /// Puts the layers together: the flags that the command takes, the environment, and the file.
    ///
    /// # Errors
    /// A file that can't be read or holds an unknown key or a secret; a value that is not one of the setting's choices.
    pub(crate) fn load(
        flags: &ArgMatches,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let named = flags.try_get_one::<String>("config").ok().flatten().map(PathBuf::from);
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let mut file = if named.is_some() || path.exists() { read_file(&path)? } else { BTreeMap::new() };
        let mut values = BTreeMap::new();
        for setting in all() {
            let in_file = file.remove(setting.name);
            if let Some(value) = &in_file {
                // A secret has no place in the file, even when another layer hides it.
                match setting.name {
                    "database-url" | "state-url" => {
                        DatabaseUrl::new(setting.name, value)?;
                    }
                    _ if setting.kind == Kind::Secret => {
                        place_in(&setting.key(), value)?;
                    }
                    _ => {}
                }
            }
            let value = match from_flags(flags, setting) {
                Some(value) => Some(value),
                None => from_environment(setting, &environment)?.or(in_file).or_else(|| default_of(setting)),
            };
            if let Some(value) = value {
                check(setting, &value)?;
                values.insert(setting.name, value);
            }
        }
        Ok(Self { values, file: named })
    }

    /// A setting, if any layer has it.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(definition(name).name)
    }

    /// The only value of a setting.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).map(Value::text)
    }

    /// The values of a setting, in order.
    pub(crate) fn texts(&self, name: &str) -> &[String] {
        self.value(name).map_or(&[], Value::texts)
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A whole number within `range`.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.text().parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(ConfigError::new(format!(
                "{} takes a whole number from {} to {}",
                value.origin.describe(name),
                range.start(),
                range.end()
            ))),
        }
    }

    /// The names of keys. A text that is not one is never repeated: it may be a key.
    pub(crate) fn keys(&self, name: &str) -> Result<Vec<KeySpec>, ConfigError> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        let key = |text: &String| {
            text.parse()
                .map_err(|error| ConfigError::new(format!("{}: {error}", value.origin.describe(name))))
        };
        value.texts().iter().map(key).collect()
    }

    /// The flags that were given and that `takes`, as they may be typed again.
    pub(crate) fn flags(&self, takes: impl Fn(&str) -> bool) -> String {
        let mut line = String::new();
        if let Some(file) = &self.file {
            line += &format!(" --config {}", quote(&file.to_string_lossy()));
        }
        for setting in SETTINGS.iter().filter(|setting| takes(setting.name)) {
            let Some(value) = self.value(setting.name).filter(|value| value.origin == Origin::Flag) else {
                continue;
            };
            match setting.kind {
                Kind::Switch => line += &format!(" --{}", setting.name),
                Kind::One | Kind::Many | Kind::Secret => value
                    .texts()
                    .iter()
                    .for_each(|text| line += &format!(" --{} {}", setting.name, quote(text))),
            }
        }
        line
    }
}

/// `text` as one word of a shell.
pub(crate) fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn from_flags(flags: &ArgMatches, setting: &Definition) -> Option<Value> {
    let texts = match setting.kind {
        Kind::Switch => {
            let on = flags.try_get_one::<bool>(setting.name).ok().flatten().copied().unwrap_or_default();
            on.then(|| vec!["true".to_owned()])?
        }
        Kind::One | Kind::Many | Kind::Secret => {
            flags.try_get_many::<String>(setting.name).ok().flatten()?.cloned().collect()
        }
    };
    Some(Value { texts, origin: Origin::Flag })
}

fn from_environment(
    setting: &Definition,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Value>, ConfigError> {
    let variable = setting.variable();
    let Some(text) = environment(&variable).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text
        .into_string()
        .map_err(|_| ConfigError::new(format!("environment variable {variable} is not valid Unicode")))?;
    let texts = match setting.kind {
        Kind::Many => text.split(',').map(|text| text.trim().to_owned()).collect(),
        Kind::One | Kind::Switch => vec![text],
        Kind::Secret => vec![format!("env:{variable}")],
    };
    Ok(Some(Value { texts, origin: Origin::Environment(variable) }))
}

fn default_of(setting: &Definition) -> Option<Value> {
    let texts = setting.default.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    (!texts.is_empty()).then_some(Value { texts, origin: Origin::Default })
}

fn check(setting: &Definition, value: &Value) -> Result<(), ConfigError> {
    let choices = match setting.kind {
        Kind::Switch => &["true", "false"],
        Kind::One | Kind::Many | Kind::Secret => setting.choices,
    };
    let legal = |text: &String| choices.is_empty() || choices.contains(&text.as_str());
    if value.texts.iter().all(legal) {
        return Ok(());
    }
    let place = value.origin.describe(setting.name);
    Err(ConfigError::new(format!("{place} is none of {}", choices.join(", "))))
}

/// The settings of a file. The parser's own messages are not used: they quote the line.
fn read_file(path: &Path) -> Result<BTreeMap<String, Value>, ConfigError> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError::new(format!("cannot read {shown}: {}", error.kind())))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::new(format!("{shown} is not TOML (line {})", before.matches('\n').count() + 1))
    })?;
    let mut settings = BTreeMap::new();
    for (key, value) in flattened(table) {
        let Some(setting) = all().find(|setting| setting.key() == key) else {
            return Err(ConfigError::new(format!("{shown} has an unknown key, {}", shown_key(&key)))
                .hint("reseal config lists the settings"));
        };
        let texts = texts_of(setting, value).ok_or_else(|| {
            let wanted = match setting.kind {
                Kind::One => "one value",
                Kind::Many => "a list of strings",
                Kind::Switch => "true or false",
                Kind::Secret => "env:NAME or file:PATH",
            };
            ConfigError::new(format!("{key} in {shown} takes {wanted}"))
        })?;
        settings.insert(setting.name.to_owned(), Value { texts, origin: Origin::File(path.to_owned()) });
    }
    Ok(settings)
}

/// The keys of the file, those of tables within tables with dots.
fn flattened(table: toml::Table) -> Vec<(String, toml::Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                flat.extend(
                    flattened(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)),
                );
            }
            value => flat.push((key, value)),
        }
    }
    flat
}

/// An unknown key, if it can't be anything but a misspelt one.
fn shown_key(key: &str) -> &str {
    let is_plain = |part: &str| {
        part.len() <= 24 && part.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte))
    };
    let plain = key.split('.').count() <= 3 && key.split('.').all(is_plain);
    if plain { key } else { "which is not shown here" }
}

fn texts_of(setting: &Definition, value: toml::Value) -> Option<Vec<String>> {
    match (setting.kind, value) {
        (Kind::One | Kind::Secret, toml::Value::String(text)) => Some(vec![text]),
        (Kind::One, toml::Value::Integer(number)) => Some(vec![number.to_string()]),
        (Kind::Switch, toml::Value::Boolean(on)) => Some(vec![on.to_string()]),
        (Kind::Many, toml::Value::String(text)) => Some(vec![text]),
        (Kind::Many, toml::Value::Array(items)) if !items.is_empty() => items
            .into_iter()
            .map(|item| match item {
                toml::Value::String(text) => Some(text),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}
