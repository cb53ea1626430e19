//! What a fence says, in SQL.
//!
//! The check runs as whoever writes, on whatever search path he has: each name and operator in it is qualified, and
//! nothing in it can raise, be the value what it may. The other function runs as its owner, on a path of its own.

use super::quote;
use crate::{
    envelope::{Encoding, v2::MAX_ENCRYPTED_DEK_LEN},
    store::{
        Column, FenceMode, FenceRule, Target,
        fence::{refusal, stem},
    },
};

/// Our own SQLSTATE for a write that is refused, of a class that the standard leaves to implementations.
const REFUSED: &str = "RK001";

/// The statements that make the fence, for the search path `pg_catalog, pg_temp`.
pub(super) fn statements(
    target: &Target,
    schema: &str,
    mode: FenceMode,
    rule: FenceRule,
    replaces: bool,
) -> Vec<String> {
    let names = Names::new(target, schema);
    let Names { table, check, act, insert, update, .. } = &names;
    let verb = if replaces { "CREATE OR REPLACE TRIGGER" } else { "CREATE TRIGGER" };
    let on_insert = names.call(|_, column| (new(column), null(column)));
    let on_update = names.call(|_, column| (new(column), old(column)));
    let body = match mode {
        FenceMode::Enforce => refuse(&names, rule),
        FenceMode::Observe => record(&names),
    };
    vec![
        format!(
            "CREATE OR REPLACE FUNCTION {check}({}) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS {}",
            parameters(target),
            literal(&check_body(target, rule))
        ),
        // Whoever writes the table calls it, by way of the trigger's WHEN.
        format!("GRANT EXECUTE ON FUNCTION {check}({}) TO PUBLIC", parameters(target)),
        format!(
            "CREATE OR REPLACE FUNCTION {act}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp AS {}",
            literal(&body)
        ),
        // That a role may have a trigger call it is asked of who makes the trigger only.
        format!("REVOKE ALL ON FUNCTION {act}() FROM PUBLIC"),
        format!(
            "{verb} {insert} AFTER INSERT ON {table} FOR EACH ROW WHEN ({on_insert}) EXECUTE FUNCTION {act}()"
        ),
        // Without a list of columns: a BEFORE trigger can change one that the statement does not name.
        format!(
            "{verb} {update} AFTER UPDATE ON {table} FOR EACH ROW WHEN ({on_update}) EXECUTE FUNCTION {act}()"
        ),
        format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {insert}, ENABLE ALWAYS TRIGGER {update}"),
    ]
}

/// Every name, quoted and qualified.
struct Names<'a> {
    target: &'a Target,
    schema: String,
    table: String,
    check: String,
    act: String,
    insert: String,
    update: String,
}

impl<'a> Names<'a> {
    fn new(target: &'a Target, schema: &str) -> Self {
        let (stem, schema) = (stem(&target.name), quote(schema));
        Self {
            target,
            table: super::table::table_name(target),
            check: format!("{schema}.{}", quote(&format!("{stem}_check"))),
            act: format!("{schema}.{}", quote(&stem)),
            insert: quote(&format!("{stem}_insert")),
            update: quote(&format!("{stem}_update")),
            schema,
        }
    }

    /// A call of the check, with a pair of arguments a column.
    fn call(&self, arguments: impl Fn(usize, &Column) -> (String, String)) -> String {
        let columns = self.target.columns.iter().enumerate();
        let arguments = columns.map(|(position, column)| {
            let (new, old) = arguments(position, column);
            format!("{new}, {old}")
        });
        format!("{}({})", self.check, arguments.collect::<Vec<_>>().join(", "))
    }

    /// The same for one column alone.
    fn call_for(&self, position: usize) -> String {
        self.call(
            |other, column| {
                if other == position { (new(column), old(column)) } else { (null(column), null(column)) }
            },
        )
    }
}

fn new(column: &Column) -> String {
    format!("NEW.{}", quote(&column.name))
}

fn old(column: &Column) -> String {
    format!("OLD.{}", quote(&column.name))
}

/// Typed: of two functions of one name, an argument of unknown type could choose somebody else's.
fn null(column: &Column) -> String {
    format!("NULL::{}", sql_type(column))
}

fn sql_type(column: &Column) -> &'static str {
    match column.encoding {
        Encoding::Bytes => "pg_catalog.bytea",
        Encoding::Base64 => "pg_catalog.text",
    }
}

fn parameters(target: &Target) -> String {
    let columns = target.columns.iter().enumerate();
    let pairs = columns.map(|(position, column)| {
        let kind = sql_type(column);
        format!("new{position} {kind}, old{position} {kind}")
    });
    pairs.collect::<Vec<_>>().join(", ")
}

/// Whether a column holds something, changed, and is not what the rule demands. `old…` is NULL on INSERT.
fn check_body(target: &Target, rule: FenceRule) -> String {
    let conditions = target.columns.iter().enumerate().map(|(position, column)| {
        let (new, old) = (format!("new{position}"), format!("old{position}"));
        let collate = match column.encoding {
            Encoding::Bytes => "",
            Encoding::Base64 => " COLLATE pg_catalog.\"C\"",
        };
        format!(
            "(pg_catalog.octet_length({new}) OPERATOR(pg_catalog.>) 0 AND \
             ({old} IS NULL OR {new} OPERATOR(pg_catalog.<>) {old}{collate}) AND ({}) IS NOT TRUE)",
            conforms(&new, column.encoding, rule)
        )
    });
    format!("BEGIN RETURN {}; END", conditions.collect::<Vec<_>>().join(" OR "))
}

/// Whether the value begins as the rule demands. In base64 the last four bits of a key id share a digit with what comes
/// after them, and are left out: 124 bits of a hash tell two keys apart as well.
fn conforms(value: &str, encoding: Encoding, rule: FenceRule) -> String {
    let FenceRule::Bound(key_id) = rule else { return is_wrapped(value, encoding) };
    let header = encoding.encode_prefix(&[&[0x03], key_id.as_bytes().as_slice()].concat());
    let length = header.len();
    match encoding {
        Encoding::Bytes => {
            let header = bytes(&hex::encode(header));
            format!("pg_catalog.substr({value}, 1, {length}) OPERATOR(pg_catalog.=) {header}")
        }
        Encoding::Base64 => format!(
            "pg_catalog.substr({value}, 1, {length}) OPERATOR(pg_catalog.=) '{}' COLLATE pg_catalog.\"C\"",
            String::from_utf8_lossy(&header)
        ),
    }
}

/// Whether a value has v2's structure: `0x02`, and a length of 1 to 6144 that leaves room for nonce and tag.
fn is_wrapped(value: &str, encoding: Encoding) -> String {
    let size = match encoding {
        Encoding::Bytes => format!("pg_catalog.octet_length({value})"),
        Encoding::Base64 => format!(
            "pg_catalog.octet_length(pg_catalog.rtrim({value}, '='))::pg_catalog.int8 \
             OPERATOR(pg_catalog.*) 3 OPERATOR(pg_catalog./) 4"
        ),
    };
    let (head, least, first) = (head(value, encoding, 3), bytes("020001"), bytes("02"));
    let longest = format!("LEAST({MAX_ENCRYPTED_DEK_LEN}, ({size}) OPERATOR(pg_catalog.-) 31)");
    format!(
        "{head} OPERATOR(pg_catalog.>=) {least} AND {head} OPERATOR(pg_catalog.<=) \
         pg_catalog.byteacat({first}, pg_catalog.int2send(GREATEST(0, {longest})::pg_catalog.int2))"
    )
}

/// The first `length` bytes of the value, a multiple of 3; of text that is no base64, none.
fn head(value: &str, encoding: Encoding, length: usize) -> String {
    match encoding {
        Encoding::Bytes => format!("pg_catalog.substr({value}, 1, {length})"),
        Encoding::Base64 => {
            let digits = length / 3 * 4;
            let text = format!("pg_catalog.substr({value}, 1, {digits}) COLLATE pg_catalog.\"C\"");
            format!(
                "CASE WHEN pg_catalog.textregexeq({text}, '^[A-Za-z0-9+/]{{{digits}}}$') \
                 THEN pg_catalog.decode({text}, 'base64') END"
            )
        }
    }
}

fn refuse(names: &Names<'_>, rule: FenceRule) -> String {
    let columns = names.target.columns.iter().enumerate();
    let refusals = columns.map(|(position, column)| {
        let (message, hint) = refusal(&names.target.name, &column.name, rule);
        format!(
            "IF {} THEN RAISE EXCEPTION USING ERRCODE = '{REFUSED}', MESSAGE = {}, HINT = {}, \
             SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = {}; END IF; ",
            names.call_for(position),
            literal(&message),
            literal(&hint),
            literal(&column.name),
        )
    });
    format!("BEGIN {}RETURN NULL; END", refusals.collect::<String>())
}

fn record(names: &Names<'_>) -> String {
    let Names { target, schema, .. } = names;
    let columns = target.columns.iter().enumerate();
    let records = columns.map(|(position, column)| {
        format!(
            "IF {check} THEN INSERT INTO {schema}.reseal_fence_events (target, transaction_id, role, application, \
             address, backend, operation, column_name, row_key, wrote) VALUES ({target}, \
             pg_current_xact_id()::text, session_user, current_setting('application_name'), \
             host(inet_client_addr()), pg_backend_pid(), TG_OP, {column}, NEW.{key}::text, {wrote}); END IF; ",
            check = names.call_for(position),
            target = literal(&target.name),
            column = literal(&column.name),
            key = quote(&target.key_column),
            wrote = wrote(&new(column), column.encoding, schema),
        )
    });
    format!("BEGIN {}RETURN NULL; EXCEPTION WHEN OTHERS THEN RETURN NULL; END", records.collect::<String>())
}

/// What the value looks like. A key id is shown only if it is a registered one: of a v1 value these bytes are random.
fn wrote(value: &str, encoding: Encoding, schema: &str) -> String {
    let (wrapped, head, first) = (is_wrapped(value, encoding), head(value, encoding, 18), bytes("03"));
    format!(
        "CASE WHEN {wrapped} THEN 'v2' ELSE coalesce((SELECT 'v3 under data-key:' || encode(key_id, 'hex') \
         FROM {schema}.reseal_data_keys WHERE {first} || key_id = substr({head}, 1, 17)), 'v1 or unknown') END"
    )
}

/// These bytes, without a backslash that `standard_conforming_strings` could make something else of.
fn bytes(hex: &str) -> String {
    format!("pg_catalog.decode('{hex}', 'hex')")
}

/// `text` as an SQL string, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}
