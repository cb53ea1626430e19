//! The fence in SQLite: a trigger for INSERT and one for UPDATE.
//!
//! SQLite has one writer at a time, and a fence goes up in a transaction that is it: every earlier write has ended by
//! then, and whoever writes next reads the schema anew. Values are compared as BLOB: a column's collation could take
//! another one for the same.
//!
//! A trigger runs inside whoever writes, in that program's own library, which may be years older than ours: it uses
//! nothing that SQLite 3.24 does not have, and leaves nothing to a default of our tables, which are free to.

use sqlx::{Row, SqliteConnection};

use super::{query, quote};
use crate::{
    envelope::{Encoding, v2::MAX_ENCRYPTED_DEK_LEN},
    store::{
        Blocker, Column, FenceMode, FenceRule, StoreError, Target,
        fence::{Found, Objects, refusal, stem},
    },
};

/// Unix milliseconds, as a library knows them that has no `unixepoch` (3.38) or no `subsec` of it (3.42).
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS integer)";

const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) async fn make(
    conn: &mut SqliteConnection,
    target: &Target,
    mode: FenceMode,
    rule: FenceRule,
) -> Result<(), StoreError> {
    remove(conn, &target.name).await?;
    for (name, rest) in definitions(target, mode, rule) {
        query(format!("CREATE TRIGGER main.{name} {rest}")).execute(&mut *conn).await?;
    }
    Ok(())
}

/// What [`make`] makes, as the schema shows it.
pub(super) fn made(target: &Target, mode: FenceMode, rule: FenceRule) -> Objects {
    let shown = |(name, rest)| (format!("trigger {name}"), format!("CREATE TRIGGER {name} {rest}"));
    definitions(target, mode, rule).map(shown).into()
}

/// The triggers: their names, and what follows on the name.
fn definitions(target: &Target, mode: FenceMode, rule: FenceRule) -> [(String, String); 2] {
    let [insert, update] = triggers(&target.name);
    let columns = target.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ");
    let table = quote(&target.table);
    let rest = |event: &str, operation| {
        let body = target.columns.iter().map(|column| action(target, column, mode, rule, operation));
        let body = body.collect::<Vec<_>>().join("; ");
        format!("AFTER {event} ON {table} BEGIN {body}; END")
    };
    [
        (insert, rest("INSERT", Operation::Insert)),
        (update, rest(&format!("UPDATE OF {columns}"), Operation::Update)),
    ]
}

pub(super) async fn remove(conn: &mut SqliteConnection, target: &str) -> Result<(), StoreError> {
    for name in triggers(target) {
        query(format!("DROP TRIGGER IF EXISTS main.{name}")).execute(&mut *conn).await?;
    }
    Ok(())
}

fn triggers(target: &str) -> [String; 2] {
    [format!("{}_insert", stem(target)), format!("{}_update", stem(target))]
}

/// What of the fence is there.
pub(super) async fn find(conn: &mut SqliteConnection, target: &Target) -> Result<Found, StoreError> {
    let (mut objects, mut complaints) = (Objects::new(), Vec::new());
    let [insert, update] = triggers(&target.name);
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND name IN (?, ?)";
    for row in query(sql.to_owned()).bind(insert).bind(update).fetch_all(&mut *conn).await? {
        objects.insert(format!("trigger {}", row.try_get::<&str, _>(0)?), row.try_get(1)?);
    }
    let sql = "SELECT name, upper(type) FROM pragma_table_xinfo(?, 'main')";
    let declared = query(sql.to_owned()).bind(target.table.clone()).fetch_all(conn).await?;
    if declared.is_empty() {
        complaints.push(format!("table {} is gone", target.table));
        return Ok(Found { objects, complaints });
    }
    for column in &target.columns {
        let is_it = |name: &str| name == column.name;
        let found = declared.iter().find(|row| row.try_get(0).is_ok_and(is_it));
        let Some(found) = found else {
            complaints.push(format!("column {} is gone, or has another name", column.name));
            continue;
        };
        let kind: &str = found.try_get(1)?;
        let holds_text = kind.starts_with("TEXT") || kind.starts_with("VARCHAR");
        if holds_text != (column.encoding == Encoding::Base64) {
            complaints.push(format!("column {} is of type {kind} now", column.name));
        }
    }
    Ok(Found { objects, complaints })
}

/// SQLite does not say who holds the file's lock.
pub(super) async fn blockers(_: &mut SqliteConnection, _: &Target) -> Result<Vec<Blocker>, StoreError> {
    Ok(Vec::new())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Insert,
    Update,
}

/// What the trigger does about one column.
fn action(
    target: &Target,
    column: &Column,
    mode: FenceMode,
    rule: FenceRule,
    operation: Operation,
) -> String {
    let value = Value::new(column);
    let broken = value.breaks(column, rule, operation);
    match mode {
        FenceMode::Enforce => {
            let (message, hint) = refusal(&target.name, &column.name, rule);
            format!("SELECT RAISE(ABORT, {}) WHERE {broken}", literal(&format!("{message} ({hint})")))
        }
        FenceMode::Observe => {
            let verb = if operation == Operation::Insert { "INSERT" } else { "UPDATE" };
            format!(
                "INSERT INTO reseal_fence_events (target, at, operation, column_name, row_key, wrote) \
                 SELECT {}, {NOW}, '{verb}', {}, CAST(NEW.{} AS TEXT), {} WHERE {broken}",
                literal(&target.name),
                literal(&column.name),
                quote(&target.key_column),
                value.wrote(column.encoding),
            )
        }
    }
}

/// What NEW holds in a column, as bytes and as text.
struct Value {
    bytes: String,
    text: String,
}

impl Value {
    fn new(column: &Column) -> Self {
        let new = format!("NEW.{}", quote(&column.name));
        Self { bytes: format!("CAST({new} AS BLOB)"), text: format!("CAST({new} AS TEXT)") }
    }

    /// Whether it holds something, changed, and is not what the rule demands.
    fn breaks(&self, column: &Column, rule: FenceRule, operation: Operation) -> String {
        let bytes = &self.bytes;
        let changed = match operation {
            Operation::Insert => String::new(),
            Operation::Update => format!("{bytes} IS NOT CAST(OLD.{} AS BLOB) AND ", quote(&column.name)),
        };
        let conforms = match rule {
            FenceRule::Wrapped => self.is_wrapped(column.encoding),
            FenceRule::Bound(key_id) => {
                let header = [&[0x03], key_id.as_bytes().as_slice()].concat();
                let header = column.encoding.encode_prefix(&header);
                format!("substr({bytes}, 1, {}) = x'{}'", header.len(), hex::encode(&header))
            }
        };
        format!("length({bytes}) > 0 AND {changed}({conforms}) IS NOT TRUE")
    }

    /// Whether it has v2's structure: `0x02`, and a length of 1 to 6144 that leaves room for nonce and tag.
    fn is_wrapped(&self, encoding: Encoding) -> String {
        let Self { bytes, text } = self;
        match encoding {
            Encoding::Bytes => format!(
                "substr({bytes}, 1, 1) = x'02' AND hex(substr({bytes}, 2, 2)) BETWEEN '0001' \
                 AND printf('%04X', max(0, min({MAX_ENCRYPTED_DEK_LEN}, length({bytes}) - 31)))"
            ),
            // 0x02 and a length below 8192 are an A and a g or h; 13 bits of length are in the next three digits.
            Encoding::Base64 => format!(
                "{text} GLOB 'A[gh][A-Za-z0-9+/][A-Za-z0-9+/]*' AND \
                 (substr({text}, 2, 1) = 'h') * 4096 + (instr('{BASE64}', substr({text}, 3, 1)) - 1) * 64 \
                 + instr('{BASE64}', substr({text}, 4, 1)) - 1 \
                 BETWEEN 1 AND min({MAX_ENCRYPTED_DEK_LEN}, length(rtrim({text}, '=')) * 3 / 4 - 31)"
            ),
        }
    }

    /// What it looks like. A key id is shown only if it is a registered one: of a v1 value these bytes are random.
    fn wrote(&self, encoding: Encoding) -> String {
        let (bytes, wrapped) = (&self.bytes, self.is_wrapped(encoding));
        match encoding {
            Encoding::Bytes => format!(
                "CASE WHEN {wrapped} THEN 'v2' ELSE coalesce((SELECT 'v3 under data-key:' || lower(hex(key_id)) \
                 FROM reseal_data_keys WHERE substr({bytes}, 1, 1) = x'03' AND key_id = substr({bytes}, 2, 16)), \
                 'v1 or unknown') END"
            ),
            // SQLite has no base64 of its own.
            Encoding::Base64 => format!("CASE WHEN {wrapped} THEN 'v2' ELSE 'v1, v3 or unknown' END"),
        }
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
