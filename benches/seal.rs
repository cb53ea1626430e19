//! Sealing, opening and re-sealing in memory: the cost of a value without its database.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reseal::{
    envelope::{v1::StaticCipher, v2, v3},
    keyring::{Sealer, kms::local::LocalKms},
    secret::{DataKey, Plaintext, StaticKey},
};

/// A connection URL is about 128 bytes.
const LENGTHS: [usize; 4] = [64, 128, 256, 4096];

const ROW: &str = "0b5a7c3e-9d41-4f0e-8a52-6c1d2e3f4a5b";

/// As long as the ciphertext blob of a 32-byte data key from AWS KMS.
const ENCRYPTED_DEK: [u8; 184] = [0xA5; 184];

/// One of each cipher, and the buffers that a worker keeps warm.
struct Bench {
    v1: StaticCipher,
    v2: v2::RowCipher,
    v3: v3::ColumnCipher,
    value: Vec<u8>,
    opened: Plaintext,
    proof: Plaintext,
}

impl Bench {
    fn new() -> Self {
        let data_key = DataKey::from_slice(&[2; 32]).expect("32 bytes");
        Self {
            v1: StaticCipher::new(&StaticKey::from_slice(&[1; 32]).expect("32 bytes")),
            v2: v2::RowCipher::new(&data_key),
            v3: v3::BoundKey::new(&data_key).for_column("org_instances", "database_url_encrypted"),
            value: Vec::new(),
            opened: Plaintext::new(),
            proof: Plaintext::new(),
        }
    }

    fn seal_v2(&mut self, plaintext: &[u8]) {
        self.v2.seal_into(&ENCRYPTED_DEK, plaintext, &mut self.value).expect("the blob fits");
    }

    fn open_v2(&mut self) {
        let wrapped = v2::Wrapped::parse(&self.value).expect("sealed as v2");
        self.v2.open_into(&wrapped, &mut self.opened).expect("its own tag");
    }
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    for len in LENGTHS {
        let (plaintext, mut bench) = (vec![b'x'; len], Bench::new());
        group.bench_function(BenchmarkId::new("v1", len), |b| {
            b.iter(|| bench.v1.seal_into(black_box(&plaintext), &mut bench.value));
        });
        group.bench_function(BenchmarkId::new("v2", len), |b| {
            b.iter(|| bench.seal_v2(black_box(&plaintext)));
        });
        group.bench_function(BenchmarkId::new("v3", len), |b| {
            b.iter(|| bench.v3.seal_into(black_box(ROW), black_box(&plaintext), &mut bench.value));
        });
    }
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(1));
    for len in LENGTHS {
        let (plaintext, mut bench) = (vec![b'x'; len], Bench::new());
        bench.v1.seal_into(&plaintext, &mut bench.value);
        group.bench_function(BenchmarkId::new("v1", len), |b| {
            b.iter(|| bench.v1.open_into(black_box(&bench.value), &mut bench.opened).expect("its own tag"));
        });
        bench.seal_v2(&plaintext);
        group.bench_function(BenchmarkId::new("v2", len), |b| b.iter(|| bench.open_v2()));
        bench.v3.seal_into(ROW, &plaintext, &mut bench.value);
        group.bench_function(BenchmarkId::new("v3", len), |b| {
            b.iter(|| {
                bench
                    .v3
                    .open_into(black_box(ROW), black_box(&bench.value), &mut bench.opened)
                    .expect("its own tag")
            });
        });
    }
}

/// What a run does with each v1 value: opens it, seals it anew, opens that again and compares. The v2 data key is made
/// beforehand: what a KMS takes is not measured here.
fn reseal(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be had");
    let kms = LocalKms::create(&folder.path().join("keyring")).expect("makes a keyring");
    let bound = v3::BoundKey::new(&DataKey::from_slice(&[2; 32]).expect("32 bytes"));
    let other = StaticCipher::new(&StaticKey::from_slice(&[3; 32]).expect("32 bytes"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be had");
    let sealers = [
        Sealer::Static(Arc::new(other)),
        Sealer::Wrapped(Arc::new(kms)),
        Sealer::bound(&bound, "org_instances", ["database_url_encrypted"]),
    ];
    let mut group = c.benchmark_group("reseal");
    group.throughput(Throughput::Elements(1));
    for sealer in &sealers {
        let keys = runtime.block_on(sealer.row_keys()).expect("the keyring is at hand");
        for len in LENGTHS {
            let (plaintext, mut bench) = (vec![b'x'; len], Bench::new());
            let mut old = Vec::new();
            bench.v1.seal_into(&plaintext, &mut old);
            group.bench_function(BenchmarkId::new(format!("v1-{}", sealer.format()), len), |b| {
                b.iter(|| {
                    let Bench { v1, value, opened, proof, .. } = &mut bench;
                    v1.open_into(black_box(&old), opened).expect("its own tag");
                    sealer.seal(0, black_box(ROW), keys.as_ref(), opened, value, proof).expect("opens again");
                });
            });
        }
    }
}

criterion_group!(benches, seal, open, reseal);
criterion_main!(benches);
