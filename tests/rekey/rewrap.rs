//! Moving to another KMS key: data keys of the registry, and those in values of v2.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use reseal::{
    envelope::Format,
    keyring::{
        self,
        kms::{Context, GeneratedKey, Kms, KmsError, Locality, Material, aws::AwsKms, local::LocalKms},
    },
    rekey::{self, Intent, Kind, Outcome, RekeyError},
    store::{NewRetirement, Store, StoreError},
};
use sqlx::Row;

use super::stage::{Database, Stage, Under, try_run_job};
use crate::support::{
    fault_proxy::{Fault, FaultProxy, Rule},
    moto::{self, Moto},
    oracle,
};

fn open(keyring: &Path) -> Arc<dyn Kms> {
    Arc::new(LocalKms::open(keyring).unwrap())
}

fn named(keyring: &Path) -> String {
    format!("local-kms:{}", keyring.display())
}

/// A KMS that dies after so many re-encryptions, or answers with something else.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn Kms>,
    left: AtomicUsize,
    /// What it answers instead.
    instead: Option<Vec<u8>>,
}

impl Odd {
    fn dies_after(inner: &Arc<dyn Kms>, left: usize) -> Self {
        Self { inner: Arc::clone(inner), left: left.into(), instead: None }
    }
}

#[async_trait]
impl Kms for Odd {
    fn key_name(&self) -> &str {
        self.inner.key_name()
    }

    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    async fn generate_data_key(&self, context: &Context) -> Result<GeneratedKey, KmsError> {
        self.inner.generate_data_key(context).await
    }

    async fn decrypt(&self, wrapped: &[u8], context: &Context) -> Result<reseal::secret::DataKey, KmsError> {
        self.inner.decrypt(wrapped, context).await
    }

    async fn re_encrypt(
        &self,
        wrapped: &[u8],
        context: &Context,
        source: &dyn Kms,
    ) -> Result<Vec<u8>, KmsError> {
        if self.left.load(Ordering::SeqCst) == 0 {
            return Err(KmsError::Service { operation: "ReEncrypt", code: "died".to_owned() });
        }
        self.left.fetch_sub(1, Ordering::SeqCst);
        match &self.instead {
            Some(wrapped) => Ok(wrapped.clone()),
            None => self.inner.re_encrypt(wrapped, context, source).await,
        }
    }

    async fn material(&self, wrapped: &[u8], context: &Context) -> Result<Option<Material>, KmsError> {
        self.inner.material(wrapped, context).await
    }

    fn calls(&self) -> u64 {
        self.inner.calls()
    }
}

/// Values under one data key of three that are under the same KMS key.
async fn three_data_keys<D: Database>(stage: &Stage<D>, keyring: &Path) {
    stage.run(&stage.choice(Format::V3, &[&stage.old()], &named(keyring))).await;
    for purpose in ["other", "third"] {
        let (row, _) = keyring::generate(open(keyring).as_ref(), purpose).await.unwrap();
        stage.store.add_data_key(&row).await.unwrap();
    }
}

async fn under(store: &dyn Store, kms: &Arc<dyn Kms>) -> usize {
    store.data_keys(None).await.unwrap().iter().filter(|row| row.kms == kms.key_name()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_move_and_no_value_is_touched_whatever_row_it_dies_at() {
    move_on(Stage::new("rewrap", 300).await).await;
    move_on(Stage::on_sqlite(300).await).await;
}

async fn move_on<D: Database>(stage: Stage<D>) {
    let (first, second) = (stage.keyring("first"), stage.keyring("second"));
    three_data_keys(&stage, &first).await;
    let (from, to) = (open(&first), open(&second));
    let values = |stored: Vec<crate::support::tenants::Stored>| {
        stored.into_iter().map(|row| (row.org_id, row.values)).collect::<HashMap<_, _>>()
    };
    let before = values(stage.on.stored().await);
    let store = stage.store.as_ref();

    // Given anew after each death, it goes on with the rows that are left.
    for done in 0..3 {
        let dying = Odd::dies_after(&to, 1);
        let ended = rekey::rewrap_data_keys(store, &[Arc::clone(&from)], &dying).await;
        assert!(done == 2 || matches!(&ended, Err(RekeyError::Kms(_))), "{ended:?}");
        assert_eq!(under(store, &to).await, done + 1);
        let either = [Under::Bound(&first), Under::Bound(&second)];
        assert_eq!(stage.differences_under_any(&either).await, [""; 0]);
    }
    assert_eq!(values(stage.on.stored().await), before, "no value was written");
    assert_eq!(stage.differences(Under::Bound(&second)).await, [""; 0]);
    let again = rekey::rewrap_data_keys(store, &[Arc::clone(&from)], to.as_ref()).await.unwrap();
    assert_eq!((again.moved.len(), again.current.len(), again.elsewhere.len()), (0, 3, 0));

    // The way back is kept until a verify.
    let verified = stage.verify(&stage.choice(Format::V3, &[], &named(&second))).await;
    assert!(verified.passed());
    assert_eq!(store.forget_previous_wraps("org_instances").await.unwrap(), 1);
    assert_eq!(store.forget_previous_wraps("org_instances").await.unwrap(), 0);

    let log = store.audit_page(0, 100).await.unwrap();
    assert_eq!(log.iter().filter(|record| record.action == "data-key-rewrapped").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrapped_before_is_kept_until_a_verify() {
    let stage = Stage::new("rewrap_previous", 20).await;
    let (first, second, third) = (stage.keyring("first"), stage.keyring("second"), stage.keyring("third"));
    stage.run(&stage.choice(Format::V3, &[&stage.old()], &named(&first))).await;
    let original = stage.store.data_keys(None).await.unwrap().remove(0);
    for (from, to) in [(&first, &second), (&second, &third)] {
        let done =
            rekey::rewrap_data_keys(stage.store.as_ref(), &[open(from)], open(to).as_ref()).await.unwrap();
        assert_eq!(done.moved.len(), 1);
    }
    let kept = sqlx::query("SELECT previous_kms, previous_wrapped, kms FROM reseal_data_keys")
        .fetch_one(&stage.on.pool)
        .await
        .unwrap();
    assert_eq!(kept.get::<String, _>(0), original.kms, "as a verify saw it last");
    assert_eq!(kept.get::<Vec<u8>, _>(1), original.wrapped);
    assert_eq!(kept.get::<String, _>(2), open(&third).key_name());

    // A destroyed key does not live on in it.
    let (next, _) = keyring::generate(open(&third).as_ref(), "org_instances").await.unwrap();
    stage.store.add_data_key(&next).await.unwrap();
    let key = format!("data-key:{}", hex::encode(original.key_id));
    let (data_key, detail) = (Some(original.key_id), serde_json::json!({}));
    let retirement = NewRetirement { key: &key, data_key, certificate: "{}", detail: detail.clone() };
    let head = stage.store.audit_head().await.unwrap();
    assert!(stage.store.retire(&retirement, head).await.unwrap());
    assert!(stage.store.destroy(&key, data_key, detail).await.unwrap());
    let left = "SELECT count(*) FROM reseal_data_keys WHERE previous_wrapped IS NOT NULL OR previous_kms IS NOT NULL";
    assert_eq!(stage.number(left).await, 0);
    assert_eq!(stage.number("SELECT count(*) FROM reseal_data_keys WHERE wrapped IS NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_unwrap_to_another_key_are_not_stored() {
    let stage = Stage::on_sqlite(20).await;
    let (first, second) = (stage.keyring("first"), stage.keyring("second"));
    three_data_keys(&stage, &first).await;
    let (from, to) = (open(&first), open(&second));
    let rows = stage.store.data_keys(Some("org_instances")).await.unwrap();
    let context =
        [("reseal:purpose", "org_instances".to_owned()), ("reseal:wrap", rows[0].wrap_id.to_string())];
    let context = context.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let other = to.generate_data_key(&context).await.unwrap().wrapped;
    let odd = Odd { instead: Some(other), ..Odd::dies_after(&to, 10) };
    let done = rekey::rewrap_data_keys(stage.store.as_ref(), &[from], &odd).await.unwrap();
    assert_eq!((done.moved.len(), done.failed.len()), (0, 3), "{done:?}");
    assert_eq!(stage.differences(Under::Bound(&first)).await, [""; 0]);

    // A row that somebody exchanged since it was read is not exchanged.
    let new = reseal::store::WrappedDataKey { wrapped: vec![1; 84], ..rows[0].clone() };
    assert!(stage.store.rewrap_data_key(&rows[0], &new).await.unwrap());
    assert!(!stage.store.rewrap_data_key(&rows[0], &rows[0]).await.unwrap());

    let elsewhere = rekey::rewrap_data_keys(stage.store.as_ref(), &[], to.as_ref()).await.unwrap();
    assert_eq!(elsewhere.elsewhere.len(), 3);

    // Nor does one go to a KMS key that was retired.
    let (certificate, detail) = ("{}", serde_json::json!({}));
    let retirement = NewRetirement { key: to.key_name(), data_key: None, certificate, detail };
    let head = stage.store.audit_head().await.unwrap();
    assert!(stage.store.retire(&retirement, head).await.unwrap());
    let from = open(&first);
    let refused = rekey::rewrap_data_keys(stage.store.as_ref(), &[from], to.as_ref()).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Store(StoreError::Retired { .. })), "{refused}");
    assert_eq!(under(stage.store.as_ref(), &to).await, 0);
}

/// A keyring that was rotated: what its earlier version wrapped is stale, and wrapped anew under the newest.
#[tokio::test(flavor = "multi_thread")]
async fn stale_backing_keys_are_told_and_refreshed() {
    let stage = Stage::on_sqlite(20).await;
    let keyring = stage.keyring("keyring");
    three_data_keys(&stage, &keyring).await;
    let material = async |kms: &Arc<dyn Kms>| {
        let mut materials = Vec::new();
        for row in stage.store.data_keys(None).await.unwrap() {
            materials.push(keyring::material(&row, kms.as_ref()).await.unwrap().unwrap());
        }
        materials
    };
    let kms = open(&keyring);
    assert_eq!(material(&kms).await, [Material::Current; 3]);
    let same =
        rekey::rewrap_data_keys(stage.store.as_ref(), &[Arc::clone(&kms)], kms.as_ref()).await.unwrap();
    assert_eq!((same.moved.len(), same.current.len()), (0, 3));

    LocalKms::rotate(&keyring).unwrap();
    let kms = open(&keyring);
    assert_eq!(material(&kms).await, [Material::Stale; 3]);
    let fresh =
        rekey::rewrap_data_keys(stage.store.as_ref(), &[Arc::clone(&kms)], kms.as_ref()).await.unwrap();
    assert_eq!(fresh.moved.len(), 3);
    assert_eq!(material(&kms).await, [Material::Current; 3]);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
}

async fn aws(proxy: &FaultProxy, arn: &str) -> Arc<dyn Kms> {
    let config = moto::config(&proxy.url()).await;
    Arc::new(AwsKms::connect_with(&arn.parse().unwrap(), &config).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_moves_data_keys_itself() {
    let stage = Stage::new("rewrap_aws", 10).await;
    let proxy = FaultProxy::start(Moto::shared().url());
    let (from, to) = (
        aws(&proxy, &Moto::shared().create_key().await).await,
        aws(&proxy, &Moto::shared().create_key().await).await,
    );
    let mut ids = Vec::new();
    for purpose in ["org_instances", "other"] {
        let (row, _) = keyring::generate(from.as_ref(), purpose).await.unwrap();
        stage.store.add_data_key(&row).await.unwrap();
        ids.push(row.key_id);
    }
    let decrypts = proxy.requests("Decrypt");
    let done =
        rekey::rewrap_data_keys(stage.store.as_ref(), &[Arc::clone(&from)], to.as_ref()).await.unwrap();
    assert_eq!(done.moved.len(), 2);
    assert_eq!((proxy.requests("ReEncrypt"), proxy.requests("Decrypt") - decrypts), (2, 2));
    for row in stage.store.data_keys(None).await.unwrap() {
        let key = keyring::unwrap(&row, std::slice::from_ref(&to)).await.unwrap();
        assert!(ids.contains(key.key_id().as_bytes()));
        assert!(keyring::unwrap(&row, std::slice::from_ref(&from)).await.is_err());
    }
    // moto, unlike AWS, says nothing of backing keys.
    let row = stage.store.data_keys(None).await.unwrap().remove(0);
    assert_eq!(keyring::material(&row, to.as_ref()).await.unwrap(), None);

    for (current, material) in [("b2", Material::Stale), ("a1", Material::Current)] {
        proxy.inject(Rule::next(1, Fault::SayMaterial("a1")).of("Decrypt"));
        proxy.inject(Rule::next(1, Fault::SayMaterial(current)).of("GenerateDataKey"));
        assert_eq!(keyring::material(&row, to.as_ref()).await.unwrap(), Some(material));
    }

    // Another service, or another region, is not reached by one call.
    let local = open(&stage.keyring("keyring"));
    let wrapped = local.generate_data_key(&Context::new()).await.unwrap().wrapped;
    let refused = to.re_encrypt(&wrapped, &Context::new(), local.as_ref()).await.unwrap_err();
    assert!(matches!(refused, KmsError::Key { .. }), "{refused}");
    // A blob of a key that was not named as its source is not taken.
    let blob = from.generate_data_key(&Context::new()).await.unwrap().wrapped;
    assert!(to.re_encrypt(&blob, &Context::new(), to.as_ref()).await.is_err());
}

/// The sealed part of every v2 value, by cell.
async fn sealed_parts<D: Database>(stage: &Stage<D>) -> HashMap<(String, usize), Vec<u8>> {
    let mut parts = HashMap::new();
    for row in stage.on.stored().await {
        for (column, value) in row.values.iter().enumerate() {
            if let Some((_, sealed)) = value.as_deref().and_then(oracle::split_v2) {
                parts.insert((row.org_id.clone(), column), sealed.to_vec());
            }
        }
    }
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn wrapped_values_keep_their_data_keys_and_sealed_bytes() {
    rewrap_values_on(Stage::new("rewrap_v2", 400).await).await;
    rewrap_values_on(Stage::on_sqlite(400).await).await;
}

async fn rewrap_values_on<D: Database>(mut stage: Stage<D>) {
    let (first, second) = (stage.keyring("first"), stage.keyring("second"));
    stage.run(&stage.choice(Format::V2, &[&stage.old()], &named(&first))).await;
    let before = sealed_parts(&stage).await;
    let (_, sealed) = stage.cells();

    stage.options.kind = Kind::Rewrap;
    stage.options.rows_limit = Some(100);
    let choice = stage.choice(Format::V2, &[&named(&first)], &named(&second));
    let interrupted = stage.run(&choice).await;
    assert_eq!(interrupted.outcome, Outcome::Interrupted);
    let either = [Under::Wrapped(&first), Under::Wrapped(&second)];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);

    // An open re-wrap is not gone on with as a re-key.
    stage.options.rows_limit = None;
    stage.options.kind = Kind::Rekey;
    let refused = try_run_job(stage.job(&choice, Intent::Run).await).await.unwrap_err();
    assert!(matches!(refused, RekeyError::Refused { .. }), "{refused}");

    stage.options.kind = Kind::Rewrap;
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, sealed));
    assert_eq!(report.run.run_id, interrupted.run.run_id);
    assert_eq!(stage.differences(Under::Wrapped(&second)).await, [""; 0]);
    assert_eq!(sealed_parts(&stage).await, before, "nonces, ciphertexts and tags are as they were");
    assert!(stage.verify(&choice).await.passed());
    let again = stage.run(&choice).await;
    assert_eq!((again.tally.rekeyed, again.tally.current), (0, sealed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_value_is_not_carried_over() {
    let mut stage = Stage::new("rewrap_bad", 50).await;
    let (first, second) = (stage.keyring("first"), stage.keyring("second"));
    stage.run(&stage.choice(Format::V2, &[&stage.old()], &named(&first))).await;
    stage
        .execute(
            "UPDATE org_instances SET database_url_encrypted = set_byte(database_url_encrypted, \
             length(database_url_encrypted) - 1, 255 - get_byte(database_url_encrypted, length(database_url_encrypted) - 1)) \
             WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances WHERE length(database_url_encrypted) > 0)",
        )
        .await;
    stage.options.kind = Kind::Rewrap;
    let choice = stage.choice(Format::V2, &[&named(&first)], &named(&second));
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.quarantined), (Outcome::Quarantined, 1));
    assert_eq!(stage.differences(Under::Wrapped(&second)).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrap_is_of_wrapped_values() {
    let mut stage = Stage::on_sqlite(5).await;
    stage.options.kind = Kind::Rewrap;
    let keyring = stage.keyring("keyring");
    let choice = stage.choice(Format::V3, &[&stage.old()], &named(&keyring));
    let target = stage.target().await;
    let job = rekey::prepare(Arc::clone(&stage.store), target, &choice, stage.options.clone(), Intent::Run);
    let Err(RekeyError::Refused { hint, .. }) = job.await.map(drop) else { panic!("v3 has no such values") };
    assert!(hint.contains("reseal keys rewrap"), "{hint}");
}
