//! Every road of a tenant, dying or failing in every phase: it ends in one place, with nothing old alive and nothing of
//! ours left over, and whoever could not work meanwhile was known to be down.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, stream};
use reseal::{
    envelope::Format,
    journal::{Hook, Moment},
    reprovision::{Asked, Course, Ending, Placement, Strategy},
};
use tokio::sync::Notify;

use super::world::{APP, Shape, World, asked};
use crate::support::vendors::{Fault, Rule, Seen};

/// The tenant that is struck.
const FIRST: &str = "org-000";

/// Cases of a road that are under way at once: most of their time is waiting.
const AT_ONCE: usize = 4;

/// A tenant's way, and what its rows end in.
#[derive(Debug, Clone, Copy)]
struct Road {
    strategy: Strategy,
    volumes: bool,
    hard: bool,
    format: Format,
}

/// What happens to the first tenant in one phase.
#[derive(Debug, Clone)]
enum Blow {
    /// The process dies.
    Dies(Moment),
    /// The request of this number to one of the vendors has this fault.
    Fails(usize, usize, Fault),
    /// From that request on the vendor is down.
    IsDown(usize, usize),
}

/// A request, without what differs from world to world.
type Request = (String, Vec<String>);

/// Of each phase, those to each vendor.
type Requests = BTreeMap<&'static str, [Vec<Request>; 2]>;

/// How a run went.
struct Journey {
    /// The requests of each phase to each vendor, of the first tenant in a run without blows.
    requests: Requests,
    /// How often it was taken up again.
    again: usize,
}

fn shape_of(seen: &Seen) -> Request {
    let path = seen.path.split('?').next().unwrap_or_default();
    let is_name = |part: &&str| !part.bytes().any(|byte| byte.is_ascii_digit());
    (seen.method.clone(), path.split('/').filter(is_name).map(str::to_owned).collect())
}

/// Takes a run of a new world from its beginning to its end, with one blow on the way.
async fn travel(road: Road, blow: Option<(&'static str, Blow)>) -> Journey {
    let shape = Shape { volumes: road.volumes, format: road.format, ..Shape::default() };
    let world = Arc::new(World::start(shape).await);
    let (died, requests) = (Arc::new(Notify::new()), Arc::new(Mutex::new(BTreeMap::new())));
    let of = format!("{road:?} {blow:?}");
    let hook = hook(Arc::clone(&world), &of, blow.clone(), &died, &requests);
    // One is enough to be struck; what happens to the others is seen where nothing happens to any.
    let only = blow.iter().map(|_| FIRST.to_owned()).collect();
    let asked = Asked { only, ..asked(road.strategy, road.hard) };
    let mut ending = tokio::select! {
        ending = world.drive(hook, &asked) => Some(ending.unwrap()),
        () = died.notified() => None,
    };
    let mut again = 0;
    while ending != Some(Ending::Complete) {
        again += 1;
        assert!(again < 4, "{of}: {ending:?}, {:?}", world.saga(FIRST).await);
        world.heal();
        world.bury().await;
        ending = Some(world.drive(Hook::default(), &asked).await.unwrap());
    }
    world.heal();
    world.judge(road.strategy, &of).await;
    if blow.is_none() {
        // One that can't be given back ends by itself.
        assert!(world.fly.machines(APP).iter().all(|machine| !world.fly.is_leased(APP, &machine.id)), "{of}");
    }
    let requests = requests.lock().unwrap().clone();
    Journey { requests, again }
}

/// Writes down requests, checks what must hold at every instant, and strikes.
fn hook(
    world: Arc<World>,
    of: &str,
    blow: Option<(&'static str, Blow)>,
    died: &Arc<Notify>,
    requests: &Arc<Mutex<Requests>>,
) -> Hook {
    let (died, requests, of) = (Arc::clone(died), Arc::clone(requests), of.to_owned());
    let begun = Arc::new(Mutex::new([0, 0]));
    let struck = Arc::new(Mutex::new(false));
    Hook::new(move |phase, moment| {
        let (world, died, struck) = (Arc::clone(&world), Arc::clone(&died), Arc::clone(&struck));
        let seen = world.vendors().map(|vendor| vendor.seen());
        match moment {
            Moment::BeforeCall => *begun.lock().unwrap() = seen.map(|seen| seen.len()),
            Moment::AfterCall => {
                let [fly, neon] = *begun.lock().unwrap();
                let shapes =
                    [&seen[0][fly..], &seen[1][neon..]].map(|seen| seen.iter().map(shape_of).collect());
                requests.lock().unwrap().entry(phase).or_insert(shapes);
                world.heal();
            }
            Moment::AfterRecord => {}
        }
        let now = blow.clone().filter(|(at, _)| *at == phase).map(|(_, blow)| blow);
        let at = format!("{of}: {phase} {moment:?}");
        async move {
            // Between what is done and what is done next only the journal changes.
            if moment == Moment::AfterCall {
                world.every_instant(&at).await;
            }
            let strikes = |at: Moment| at == moment && !std::mem::replace(&mut *struck.lock().unwrap(), true);
            match now {
                Some(Blow::Dies(at)) if strikes(at) => {
                    died.notify_one();
                    std::future::pending::<()>().await;
                }
                Some(Blow::Fails(vendor, number, fault)) if strikes(Moment::BeforeCall) => {
                    world.vendors()[vendor].fault(Rule::any_after(number, fault));
                }
                Some(Blow::IsDown(vendor, number)) if strikes(Moment::BeforeCall) => {
                    let down = Rule::every("", "", Fault::Refuse(503, "{}"));
                    world.vendors()[vendor].fault(down.after(number));
                }
                _ => {}
            }
        }
    })
}

/// Every blow to one phase whose requests are these.
fn blows(requests: &[Vec<Request>; 2]) -> Vec<Blow> {
    let mut blows: Vec<_> =
        [Moment::BeforeCall, Moment::AfterCall, Moment::AfterRecord].map(Blow::Dies).into();
    for (vendor, asked) in requests.iter().enumerate() {
        let (mut known, mut changed) = (BTreeSet::new(), true);
        for (number, (method, path)) in asked.iter().enumerate() {
            // Between two changes all stays as it is: the first look after each stands for the others.
            if std::mem::replace(&mut changed, method != "GET") {
                blows.push(Blow::IsDown(vendor, number));
            }
            // The same change once more is more of the same.
            if method == "GET" || !known.insert((method, path)) {
                continue;
            }
            let faults =
                [Fault::LoseReply, Fault::LoseRequest, Fault::Refuse(503, "{}"), Fault::Refuse(423, "{}")];
            // Only Neon says 423.
            blows.extend(faults.into_iter().take(3 + vendor).map(|fault| Blow::Fails(vendor, number, fault)));
        }
    }
    blows
}

/// A road, struck in every phase in every way.
async fn matrix(strategy: Strategy, volumes: bool, hard: bool, format: Format) {
    let road = Road { strategy, volumes, hard, format };
    let placement = if volumes { Placement::InPlace } else { Placement::Swap };
    let course = Course { strategy, placement, hard };
    let clean = travel(road, None).await;
    assert_eq!(clean.again, 0);
    let mut cases = Vec::new();
    for phase in course.phases() {
        let requests = clean.requests.get(phase.as_str()).expect("every phase was come to");
        cases.extend(blows(requests).into_iter().map(|blow| (phase.as_str(), blow)));
    }
    let count = cases.len();
    let again: Vec<_> = stream::iter(cases)
        .map(|blow| async move { travel(road, Some(blow)).await.again })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let second = again.iter().filter(|again| **again > 0).count();
    let name = format!("{} {placement:?}{}", strategy.as_str(), if hard { " hard" } else { "" });
    drop(writeln!(std::io::stdout(), "{name}: {count} cases, all done, {second} in a second run"));
}

macro_rules! roads {
    ($($test:ident: $strategy:ident, $volumes:literal, $hard:literal, $format:ident;)*) => {$(
        #[tokio::test]
        async fn $test() {
            matrix(Strategy::$strategy, $volumes, $hard, Format::$format).await;
        }
    )*};
}

roads! {
    reset_swap: Reset, false, false, V1;
    reset_swap_hard: Reset, false, true, V2;
    reset_in_place: Reset, true, false, V3;
    reset_in_place_hard: Reset, true, true, V1;
    branch_swap: Branch, false, false, V2;
    branch_swap_hard: Branch, false, true, V3;
    branch_in_place: Branch, true, false, V1;
    branch_in_place_hard: Branch, true, true, V2;
    fresh_swap: Fresh, false, false, V3;
    fresh_swap_hard: Fresh, false, true, V1;
    fresh_in_place: Fresh, true, false, V2;
    fresh_in_place_hard: Fresh, true, true, V3;
}
