//! SQLite has no standby.

use sqlx::SqliteConnection;

use crate::store::StoreError;

#[expect(clippy::unused_async, reason = "Postgres asks the server")]
pub(super) async fn position(_: &mut SqliteConnection) -> Result<Option<String>, StoreError> {
    Ok(None)
}
