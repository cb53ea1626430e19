//! The lease of whoever works on a rotation or a re-provisioning: one at a time, for 20 s unless it is renewed.

/// The queries on the lease `$lease` that each row of `$table` has, found by the column `$id`.
macro_rules! leases {
    ($table:literal, $lease:ident { $id:ident }, $claim:ident, $renew:ident, $release:ident) => {
        async fn $claim(conn: &mut Connection, id: &str, holder: &str) -> Result<Option<$lease>, StoreError> {
            let claimed = query(concat!(
                "UPDATE ",
                $table,
                " SET fence = fence + 1, holder = $1, lease_until = ",
                lease_end!(),
                " WHERE ",
                stringify!($id),
                " = $2 AND ended_at IS NULL AND (holder IS NULL OR lease_until < ",
                now!(),
                ") RETURNING fence"
            ))
            .bind(holder.to_owned())
            .bind(id.to_owned())
            .fetch_optional(&mut *conn)
            .await?;
            let lease =
                |row: <Db as Database>::Row| Ok($lease { $id: id.to_owned(), fence: row.try_get(0)? });
            claimed.map(lease).transpose()
        }

        /// Also locks the row: what is written after it, in the same transaction, is the holder's.
        async fn $renew(conn: &mut Connection, lease: &$lease) -> Result<bool, StoreError> {
            let renewed = query(concat!(
                "UPDATE ",
                $table,
                " SET lease_until = ",
                lease_end!(),
                " WHERE ",
                stringify!($id),
                " = $1 AND fence = $2 AND holder IS NOT NULL"
            ))
            .bind(lease.$id.clone())
            .bind(lease.fence)
            .execute(&mut *conn)
            .await?;
            Ok(renewed.rows_affected() == 1)
        }

        async fn $release(conn: &mut Connection, lease: &$lease) -> Result<(), StoreError> {
            query(concat!(
                "UPDATE ",
                $table,
                " SET holder = NULL, lease_until = NULL WHERE ",
                stringify!($id),
                " = $1 AND fence = $2"
            ))
            .bind(lease.$id.clone())
            .bind(lease.fence)
            .execute(&mut *conn)
            .await?;
            Ok(())
        }
    };
}
pub(in crate::store) use leases;
