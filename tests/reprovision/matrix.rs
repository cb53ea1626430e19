//! Every road of a tenant, dying or failing in every phase.

use reseal::{
    journal::Hook,
    reprovision::{Ending, Strategy},
};

use super::world::{Shape, World, asked};

#[tokio::test]
async fn reset_swap() {
    let world = World::start(Shape::default()).await;
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(
        ending,
        Ending::Complete,
        "{:?}",
        world.sagas().await.iter().map(|s| (&s.phase, &s.why)).collect::<Vec<_>>()
    );
    world.judge(Strategy::Reset, "clean").await;
}
