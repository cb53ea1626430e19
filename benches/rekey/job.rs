//! The runs that are measured.

use std::{path::Path, sync::Arc};

use reseal::{
    envelope::Format,
    keyring::{ClearText, kms::local::LocalKms},
    rekey::{self, DataKeyScope, Intent, KeyChoice, Options},
    store::{Store, TargetName},
};
use tokio::sync::watch;

use crate::support::{private_file, tenants};

/// The static key that the values begin under.
pub(crate) const OLD: [u8; 32] = [0x11; 32];

/// A static key and a keyring, as files.
pub(crate) struct Keys {
    old: String,
    new: String,
}

impl Keys {
    pub(crate) fn new(folder: &Path) -> Self {
        let (old, keyring) = (folder.join("old"), folder.join("keyring"));
        private_file(&old, &hex::encode(OLD));
        LocalKms::create(&keyring).expect("makes a keyring");
        Self {
            old: format!("static:file:{}", old.display()),
            new: format!("local-kms:{}", keyring.display()),
        }
    }
}

/// What a run is to end in.
#[derive(Clone, Copy)]
pub(crate) struct To {
    pub(crate) format: Format,
    /// For v3: under a data key of its own, and not under the one that is there.
    pub(crate) new_data_key: bool,
}

/// Re-keys the whole table, from whatever it is under.
pub(crate) async fn rekey(store: Arc<dyn Store>, keys: &Keys, to: To, options: &Options) {
    let name = TargetName {
        logical: None,
        schema: None,
        table: "org_instances".to_owned(),
        key_column: "org_id".to_owned(),
        columns: tenants::COLUMNS.map(str::to_owned).to_vec(),
    };
    let target = store.inspect(&name).await.expect("inspects").target.expect("is a target");
    let choice = KeyChoice {
        old: vec![keys.old.parse().expect("a key")],
        new: keys.new.parse().expect("a key"),
        format: to.format,
        scope: DataKeyScope::Row,
        new_data_key: to.new_data_key,
        clear_text: ClearText::Quarantine,
    };
    let job = rekey::prepare(store, target, &choice, options.clone(), Intent::Run).await.expect("prepares");
    let (_stop, signal) = rekey::stop_signal();
    let report = rekey::run(job, signal, watch::Sender::default()).await.expect("runs");
    assert_eq!(report.outcome, rekey::Outcome::Complete);
}
