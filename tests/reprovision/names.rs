//! Names of what is made for a tenant.

use proptest::prelude::*;
use reseal::reprovision::name_of;

/// Tenants as they are called, and as nobody should.
fn tenant() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{0,44}", "[A-Za-z0-9._-]{1,20}", ".{0,60}", "[a-b]{1,3}(-g[0-9])?"]
}

proptest! {
    #[test]
    fn no_two_tenants_or_generations_share_a_name(
        one in tenant(), other in tenant(), first in 1_i64.., second in 1_i64..,
    ) {
        let names = [name_of(&one, first), name_of(&other, second)];
        prop_assert_eq!(names[0] == names[1], (&one, first) == (&other, second));
    }

    #[test]
    fn a_name_is_one_label_of_dns(tenant in tenant(), generation in 1_i64..) {
        let name = name_of(&tenant, generation);
        prop_assert!(name.len() <= 63);
        let ending = format!("-g{generation}");
        prop_assert!(name.starts_with("t-") && name.ends_with(&ending));
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
    }

    /// Those of a tenant's generations 1 and 11 too.
    #[test]
    fn a_generation_is_in_its_name_alone(tenant in "[a-z0-9]{1,8}", generation in 1_i64..50) {
        let names: Vec<_> = (1..50).map(|other| name_of(&tenant, other)).collect();
        prop_assert_eq!(names.iter().filter(|name| **name == name_of(&tenant, generation)).count(), 1);
    }
}
