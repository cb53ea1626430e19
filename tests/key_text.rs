//! Key text is read as the control plane reads it, written back in the same form, and never shown.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use proptest::prelude::*;
use reseal::{
    keyring::{
        spec::{KeySpec, StaticSource},
        static_key::{self, ConfiguredKey, KeyTextError, KeyTextForm},
    },
    secret::StaticKey,
};
use tempfile::TempDir;

/// 64 hex digits, which are valid base64 of 48 bytes as well.
const HEX: &str = "9c1f2a7be04d5566778899aabbccddeeff00112233445566778899aabbccddee";
const BASE64: &str = "nB8qe+BNVWZ3iJmqu8zd7v8AESIzRFVmd4iZqrvM3e4=";

fn key() -> StaticKey {
    StaticKey::from_slice(&hex::decode(HEX).unwrap()).unwrap()
}

fn key_file(content: &[u8], mode: u32) -> (TempDir, StaticSource) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (directory, StaticSource::File(path))
}

fn load(content: &[u8]) -> Result<ConfiguredKey, String> {
    let (_directory, source) = key_file(content, 0o600);
    static_key::load(&source).map_err(|error| error.to_string())
}

#[test]
fn each_form_is_told_by_its_length_and_alphabet() {
    for (text, form) in [
        (HEX.as_bytes(), KeyTextForm::Hex),
        (HEX.to_uppercase().as_bytes(), KeyTextForm::Hex),
        (BASE64.as_bytes(), KeyTextForm::Base64),
        (key().expose(), KeyTextForm::Raw),
    ] {
        assert_eq!(static_key::decode(text).unwrap(), ConfiguredKey { key: key(), form });
    }
    // 32 hex digits are not a short hex key: they are 32 raw bytes.
    assert_eq!(static_key::decode(&HEX.as_bytes()[..32]).unwrap().form, KeyTextForm::Raw);
}

#[test]
fn what_has_no_form_is_refused() {
    let url_safe = BASE64.replace('+', "-");
    for text in [
        "",
        &HEX[..63],
        &format!("{HEX}0"),
        &format!("0x{HEX}"),
        &HEX.replace('9', "g"),
        BASE64.trim_end_matches('='),
        &url_safe,
        // The last character's spare bits are set: not canonical.
        &BASE64.replace("4=", "5="),
        // 31 and 33 bytes.
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(
            static_key::decode(text.as_bytes()),
            Err(KeyTextError::Form { len: text.len() }),
            "{text}"
        );
    }
    for text in [format!(" {HEX}"), format!("{HEX}\n"), format!("{BASE64} "), format!("{BASE64}\r\n")] {
        assert_eq!(static_key::decode(text.as_bytes()), Err(KeyTextError::WhiteSpace), "{text}");
    }
}

#[test]
fn a_file_may_end_with_one_newline_after_hex_and_base64() {
    for line in [HEX, BASE64] {
        for end in ["", "\n", "\r\n"] {
            assert_eq!(load(format!("{line}{end}").as_bytes()).unwrap().key, key());
        }
        for (start, end) in [("", "\n\n"), ("", "\r"), ("", " \n"), (" ", "\n"), ("\n", "")] {
            let error = load(format!("{start}{line}{end}").as_bytes()).unwrap_err();
            assert!(error.ends_with("key text begins or ends with white space: remove it"), "{error}");
        }
    }
}

#[test]
fn of_raw_bytes_none_is_passed_over() {
    let raw = [b"\n\r\n".as_slice(), &[b'k'; 27], b"\r\n"].concat();
    let configured = load(&raw).unwrap();
    assert_eq!((configured.key.expose().as_slice(), configured.form), (raw.as_slice(), KeyTextForm::Raw));
    assert!(load(&[raw.as_slice(), b"\n"].concat()).unwrap_err().contains("white space"));
}

#[test]
fn a_file_that_others_may_read_is_refused_with_the_remedy() {
    for mode in [0o640, 0o604, 0o620, 0o644, 0o666] {
        let (_directory, source) = key_file(HEX.as_bytes(), mode);
        let StaticSource::File(path) = &source else { unreachable!() };
        let path = path.display();
        assert_eq!(
            static_key::load(&source).unwrap_err().to_string(),
            format!("{path} is open to others (mode 0{mode:o}): run `chmod 600 {path}`")
        );
    }
    let (_directory, source) = key_file(HEX.as_bytes(), 0o400);
    assert_eq!(static_key::load(&source).unwrap().key, key());
}

#[test]
fn a_file_that_is_missing_or_none_or_far_too_long_is_named() {
    let missing = static_key::load(&StaticSource::File("/nowhere/key".into())).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/key: "), "{missing}");
    let directory = static_key::load(&StaticSource::File("/".into())).unwrap_err().to_string();
    assert_eq!(directory, "cannot read /: is a directory");
    let long = load(&vec![b'a'; 1 << 20]).unwrap_err();
    assert!(long.ends_with("/key is longer than 4096 bytes"), "{long}");
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    let source = StaticSource::Env("RESEAL_NO_SUCH_VARIABLE".into());
    assert_eq!(
        static_key::load(&source).unwrap_err().to_string(),
        "environment variable RESEAL_NO_SUCH_VARIABLE is not set"
    );
}

#[test]
fn raw_bytes_that_are_not_text_have_no_raw_form() {
    assert_eq!(static_key::encode(&key(), KeyTextForm::Raw), None);
}

#[test]
fn a_generated_key_can_be_written_in_the_form_it_is_for() {
    for form in [KeyTextForm::Hex, KeyTextForm::Base64, KeyTextForm::Raw] {
        let key = static_key::generate(form).unwrap();
        assert_ne!(key, static_key::generate(form).unwrap());
        let text = static_key::encode(&key, form).unwrap();
        assert_eq!(static_key::decode(text.expose().as_bytes()).unwrap(), ConfiguredKey { key, form });
    }
}

#[test]
fn every_form_of_a_key_name_is_read() {
    let arn = "arn:aws:kms:eu-central-1:123456789012:key/6f2e8a4c-0d51-4f3b-9a77-2b1c5e9d8f10";
    for name in [
        "static:env:SECRETS_ENCRYPTION_KEY",
        "static:env:_1",
        "static:file:/etc/reseal/key",
        "static:file:a key: with colons",
        &format!("aws-kms:{arn}"),
        "aws-kms:arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef",
        "aws-kms:arn:aws:kms:eu-central-1:123456789012:alias/control-plane/urls",
        "aws-kms:alias/control-plane",
        "aws-kms:6f2e8a4c-0d51-4f3b-9a77-2b1c5e9d8f10",
        "data-key:00112233445566778899aabbccddeeff",
        "local-kms:./keyring.json",
    ] {
        assert_eq!(name.parse::<KeySpec>().unwrap().to_string(), name);
    }
    assert_eq!(
        "static:file:/k".parse::<KeySpec>().unwrap(),
        KeySpec::Static(StaticSource::File(PathBuf::from("/k")))
    );
}

#[test]
fn what_names_no_key_is_refused_with_the_forms_it_could_have() {
    for (name, part) in [
        ("", "a key is named by static:env:NAME, static:file:PATH"),
        ("SECRETS_ENCRYPTION_KEY", "a key is named by static:env:NAME, static:file:PATH"),
        ("static:SECRETS_ENCRYPTION_KEY", "a key is named by static:env:NAME, static:file:PATH"),
        ("Static:env:KEY", "a key is named by static:env:NAME, static:file:PATH"),
        ("static:env:", "static:env: takes the name of an environment variable"),
        ("static:env:1KEY", "static:env: takes the name of an environment variable"),
        ("static:env:$KEY", "static:env: takes the name of an environment variable"),
        ("static:file:", "static:file: and local-kms: take the path of a file"),
        ("local-kms:", "static:file: and local-kms: take the path of a file"),
        ("aws-kms:", "aws-kms: takes a key ARN"),
        ("aws-kms:alias/", "aws-kms: takes a key ARN"),
        ("aws-kms:arn:aws:s3:::bucket", "aws-kms: takes a key ARN"),
        ("aws-kms:arn:aws:kms:eu-central-1:1234:alias/short-account", "aws-kms: takes a key ARN"),
        ("data-key:0011", "data-key: takes the id of a data key, 32 hex digits"),
    ] {
        let error = name.parse::<KeySpec>().unwrap_err().to_string();
        assert!(error.starts_with(part), "{name}: {error}");
    }
}

#[test]
fn a_pasted_key_is_recognized_wherever_it_is_put() {
    // This one would be a legal name of a variable.
    let named = HEX.replacen('9', "a", 1);
    for key in [HEX, BASE64, &named] {
        for prefix in ["", "static:env:", "static:file:", "aws-kms:", "local-kms:", "data-key:"] {
            let error = format!("{prefix}{key}").parse::<KeySpec>().unwrap_err();
            assert!(error.to_string().starts_with("a key itself was given"), "{prefix}");
        }
    }
}

proptest! {
    #[test]
    fn a_key_survives_every_text_form(bytes: [u8; 32]) {
        for form in [KeyTextForm::Hex, KeyTextForm::Base64] {
            let key = StaticKey::from_slice(&bytes).unwrap();
            let text = static_key::encode(&key, form).unwrap();
            prop_assert_eq!(static_key::decode(text.expose().as_bytes()).unwrap(), ConfiguredKey { key, form });
        }
        prop_assert_eq!(static_key::decode(&bytes).unwrap().form, KeyTextForm::Raw);
    }

    #[test]
    fn no_error_repeats_what_it_refuses(secret in "[!-~]{8,80}", prefix in 0..7_usize) {
        // A mark that no message holds by chance.
        let secret = format!("%{secret}%");
        if let Err(error) = static_key::decode(secret.as_bytes()) {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains(&secret));
        }
        let prefix = ["", "static:", "static:env:", "aws-kms:", "data-key:", "aws-kms:arn:", "kms:"][prefix];
        let error = format!("{prefix}{secret}").parse::<KeySpec>().unwrap_err();
        let shown = format!("{error} {error:?}");
        prop_assert!(!shown.contains(&secret));
    }
}
