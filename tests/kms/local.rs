//! The local keyring: its file loses nothing, and its blobs open only as they were made.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    thread,
};

use reseal::keyring::{
    kms::{Kms, KmsError, Locality, connect, local::LocalKms},
    spec::KmsSpec,
};
use tempfile::TempDir;

use super::{context, kind};

fn keyring() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("keyring.json");
    LocalKms::create(&path).unwrap();
    (directory, path)
}

fn mode(path: &PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &TempDir) -> BTreeSet<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_data_key_comes_back_from_its_blob_and_context() {
    let (_directory, path) = keyring();
    let kms = LocalKms::open(&path).unwrap();
    for context in [context(&[]), context(&[("reseal:purpose", "org_instances"), ("reseal:wrap", "1")])] {
        let made = kms.generate_data_key(&context).await.unwrap();
        assert_eq!(made.wrapped.len(), 84);
        assert_eq!(kms.decrypt(&made.wrapped, &context).await.unwrap(), made.key);
        assert_ne!(kms.generate_data_key(&context).await.unwrap().key, made.key);
    }
    assert_eq!(kms.calls(), 6);
    assert_eq!(kms.locality(), Locality::Local);
}

#[tokio::test]
async fn the_blob_is_as_documented() {
    let (_directory, path) = keyring();
    let kms = LocalKms::rotate(&path).unwrap();
    let wrapped = kms.generate_data_key(&context(&[])).await.unwrap().wrapped;
    let id = uuid::Uuid::parse_str(kms.key_name().strip_prefix("local-kms:").unwrap()).unwrap();
    assert_eq!(wrapped[..4], *b"RLK1");
    assert_eq!(wrapped[4..20], *id.as_bytes());
    assert_eq!(wrapped[20..24], 2_u32.to_be_bytes());
}

#[tokio::test]
async fn a_blob_that_was_changed_anywhere_is_refused() {
    let (_directory, path) = keyring();
    LocalKms::rotate(&path).unwrap();
    let kms = LocalKms::open(&path).unwrap();
    let context = context(&[("reseal:purpose", "t")]);
    let wrapped = kms.generate_data_key(&context).await.unwrap().wrapped;
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 3;
        let error = kms.decrypt(&changed, &context).await.unwrap_err();
        // Version 2 with its last bits changed is version 1, which exists; with others, one that does not.
        let expected = if (20..23).contains(&at) { "key" } else { "blob" };
        assert_eq!(kind(&error), expected, "byte {at}: {error}");
    }
    for len in 0..wrapped.len() {
        assert_eq!(kind(&kms.decrypt(&wrapped[..len], &context).await.unwrap_err()), "blob");
    }
    let longer = [wrapped.as_slice(), &[0]].concat();
    assert_eq!(kind(&kms.decrypt(&longer, &context).await.unwrap_err()), "blob");
}

#[tokio::test]
async fn another_context_does_not_open_even_one_that_reads_alike() {
    let (_directory, path) = keyring();
    let kms = LocalKms::open(&path).unwrap();
    let contexts = [
        context(&[]),
        context(&[("", "")]),
        context(&[("ab", "c")]),
        context(&[("a", "bc")]),
        context(&[("a", "b"), ("c", "")]),
        context(&[("a", "b"), ("c", "d")]),
        context(&[("a", "b\0\0\0\u{1}c\0\0\0\u{1}d")]),
        context(&[("a", "d"), ("c", "b")]),
    ];
    for (made, under) in contexts.iter().enumerate() {
        let wrapped = kms.generate_data_key(under).await.unwrap().wrapped;
        for (asked, context) in contexts.iter().enumerate() {
            match kms.decrypt(&wrapped, context).await {
                Ok(_) => assert_eq!(asked, made),
                Err(error) => assert_eq!((asked != made, kind(&error)), (true, "blob")),
            }
        }
    }
}

#[tokio::test]
async fn a_blob_of_another_keyring_is_refused_as_such() {
    let ((_one, one), (_other, other)) = (keyring(), keyring());
    let (one, other) = (LocalKms::open(&one).unwrap(), LocalKms::open(&other).unwrap());
    assert_ne!(one.key_name(), other.key_name());
    let wrapped = one.generate_data_key(&context(&[])).await.unwrap().wrapped;
    let error = other.decrypt(&wrapped, &context(&[])).await.unwrap_err();
    assert_eq!(error.to_string(), "Decrypt refused the wrapped key (wrapped by another keyring)");
    assert_eq!(kind(&error), "blob");
}

#[tokio::test]
async fn the_newest_version_wraps_and_all_unwrap() {
    let (_directory, path) = keyring();
    let before = LocalKms::open(&path).unwrap();
    let none = context(&[]);
    let old = before.generate_data_key(&none).await.unwrap();
    let after = LocalKms::rotate(&path).unwrap();
    let new = after.generate_data_key(&none).await.unwrap();
    assert_eq!(before.key_name(), after.key_name());
    assert_eq!((old.wrapped[23], new.wrapped[23]), (1, 2));

    let reopened = LocalKms::open(&path).unwrap();
    for made in [&old, &new] {
        assert_eq!(reopened.decrypt(&made.wrapped, &none).await.unwrap(), made.key);
    }
    // Opened before the rotation: the bytes may be sound, so they are not what is judged.
    let error = before.decrypt(&new.wrapped, &none).await.unwrap_err();
    assert_eq!(
        error,
        KmsError::Key {
            operation: "Decrypt",
            key: before.key_name().to_owned(),
            code: "the keyring has no version 2".to_owned()
        }
    );
}

#[test]
fn it_is_made_private_and_never_over_another_file() {
    let (directory, path) = keyring();
    assert_eq!(mode(&path), 0o600);
    let content = fs::read(&path).unwrap();
    let error = LocalKms::create(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{} exists, and a keyring is never overwritten", path.display()));
    assert_eq!(fs::read(&path).unwrap(), content);

    let dangling = directory.path().join("link");
    symlink(directory.path().join("elsewhere"), &dangling).unwrap();
    LocalKms::create(&dangling).unwrap_err();
    assert_eq!(names(&directory), BTreeSet::from(["keyring.json".into(), "link".into()]));

    let nowhere = LocalKms::create(&directory.path().join("no/keyring")).unwrap_err().to_string();
    assert!(nowhere.starts_with("cannot write "), "{nowhere}");
}

#[test]
fn it_is_not_used_while_others_may_read_it() {
    let (_directory, path) = keyring();
    let content = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let remedy = format!("is open to others (mode 0644): run `chmod 600 {}`", path.display());
    for refused in [LocalKms::open(&path), LocalKms::rotate(&path)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.ends_with(&remedy), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), content);
}

#[test]
fn a_file_that_is_not_a_keyring_is_refused_and_left_alone() {
    let (_directory, path) = keyring();
    let sound = fs::read_to_string(&path).unwrap();
    let key = sound.split('"').find(|text| text.len() == 64).unwrap().to_owned();
    let entry = format!("{{\"version\": 1, \"key\": \"{key}\"}}");
    let one = &sound[sound.find('[').unwrap()..=sound.rfind(']').unwrap()];
    let cases = [
        (String::new(), "(line 1, column 0)"),
        (sound[..sound.len() / 2].to_owned(), "is not a local-kms keyring (line "),
        (key.clone(), "is not a local-kms keyring (line 1"),
        (sound.replace(&key, &key[..63]), "is not a local-kms keyring (line 7"),
        (sound.replace(&key, &format!("\\u0030{key}")), "is not a local-kms keyring (line 7"),
        (
            sound.replace("\"version\"", "\"comment\": \"x\", \"version\""),
            "is not a local-kms keyring (line 6",
        ),
        (sound.replace("local-kms 1", "local-kms 2"), ": its format is not \"reseal local-kms 1\""),
        (sound.replace(one, "[]"), ": it has no key"),
        (sound.replace(one, &format!("[{entry}, {entry}]")), ": its versions do not ascend"),
        (format!("{sound}{sound}"), "is not a local-kms keyring (line 11"),
        (" ".repeat(1 << 20), " is longer than 262144 bytes"),
    ];
    for (content, expected) in cases {
        assert_ne!(content, sound);
        fs::write(&path, &content).unwrap();
        for refused in [LocalKms::open(&path), LocalKms::rotate(&path)] {
            let error = refused.unwrap_err();
            assert!(error.to_string().contains(expected), "{error} has no {expected}");
            assert!(!format!("{error} {error:?}").contains(&key[..16]));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::write(&path, sound).unwrap();
    LocalKms::open(&path).unwrap();
}

#[tokio::test]
async fn what_a_writer_left_that_died_disturbs_nothing() {
    let (directory, path) = keyring();
    let kms = LocalKms::open(&path).unwrap();
    let made = kms.generate_data_key(&context(&[])).await.unwrap();
    let left = directory.path().join(".keyring.json.new");
    for content in ["", "{\"format\": \"reseal loc"] {
        fs::write(&left, content).unwrap();
        LocalKms::open(&path).unwrap();
        let kms = LocalKms::rotate(&path).unwrap();
        assert_eq!(kms.decrypt(&made.wrapped, &context(&[])).await.unwrap(), made.key);
        assert_eq!(names(&directory), BTreeSet::from(["keyring.json".to_owned()]));
        assert_eq!(mode(&path), 0o600);
    }
}

#[tokio::test]
async fn rotating_through_a_link_changes_the_file_it_leads_to() {
    let (directory, path) = keyring();
    let link = directory.path().join("link");
    symlink("keyring.json", &link).unwrap();
    let wrapped = LocalKms::rotate(&link).unwrap().generate_data_key(&context(&[])).await.unwrap().wrapped;
    assert!(link.is_symlink());
    LocalKms::open(&path).unwrap().decrypt(&wrapped, &context(&[])).await.unwrap();
}

#[tokio::test]
async fn rotations_at_once_lose_no_version() {
    let (_directory, path) = keyring();
    let rotations: Vec<_> = (0..16)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || LocalKms::rotate(&path).unwrap())
        })
        .collect();
    let rotated: Vec<_> = rotations.into_iter().map(|rotation| rotation.join().unwrap()).collect();
    let last = LocalKms::open(&path).unwrap();
    let mut versions = BTreeSet::new();
    for kms in rotated {
        let made = kms.generate_data_key(&context(&[])).await.unwrap();
        assert_eq!(last.decrypt(&made.wrapped, &context(&[])).await.unwrap(), made.key);
        versions.insert(made.wrapped[23]);
    }
    assert_eq!(versions, (2..18).collect());
}

#[tokio::test]
async fn one_keyring_serves_many_tasks() {
    let (_directory, path) = keyring();
    let kms = connect(&KmsSpec::Local(path)).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let kms = kms.clone();
            tokio::spawn(async move {
                let context = context(&[("task", &task.to_string())]);
                for _ in 0..100 {
                    let made = kms.generate_data_key(&context).await.unwrap();
                    assert_eq!(kms.decrypt(&made.wrapped, &context).await.unwrap(), made.key);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(kms.calls(), 1600);
}

#[test]
fn its_debug_form_holds_no_key() {
    let (_directory, path) = keyring();
    let kms = LocalKms::open(&path).unwrap();
    let id = kms.key_name().strip_prefix("local-kms:").unwrap();
    assert_eq!(format!("{kms:?}"), format!("LocalKms({id}, 1 versions)"));
}
