//! What is bounded in number and given back by being dropped: watchers, a peer's
//! connections and calls, acquires that wait.

use std::{any::Any, sync::Arc};

use shuttle::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};
use tenantd::domain::tenant::TenantId;

use crate::{
    app::{waiting::Waiting, watchers::Watchers},
    transport::{
        account::{Account, Of, Share},
        crowd::{Crowd, Whose},
    },
};

type Place = Box<dyn Any + Send>;
type Enter = Arc<dyn Fn() -> Option<Place> + Send + Sync>;

fn boxed<T: Send + 'static>(place: Option<T>) -> Option<Place> {
    place.map(|place| Box::new(place) as Place)
}

/// Each of them, with room for so many.
fn pieces(most: u32) -> [Enter; 5] {
    let watchers = Arc::<Watchers>::default();
    let share = Share { calls: most, operators: most, partial: 1 };
    let crowd = Crowd::of_processes(most, share);
    let account = Account::new(share);
    let (of_one, of_all) = (Arc::<Waiting>::default(), Arc::<Waiting>::default());
    let tenant = TenantId::parse("acme").unwrap();
    let same = tenant.clone();
    [
        Arc::new(move || boxed(watchers.enter(most))),
        Arc::new(move || boxed(crowd.enter(Some(Whose::Process(1))))),
        Arc::new(move || boxed(account.begin(Of::Agents).ok())),
        Arc::new(move || boxed(of_one.enter(&tenant, (100, most)).ok())),
        Arc::new(move || boxed(of_all.enter(&same, (most, 100)).ok())),
    ]
}

/// Three come and go; never more than two are in.
pub fn never_over() {
    for enter in pieces(2) {
        let inside = Arc::new(AtomicU32::new(0));
        let threads = [(); 3].map(|()| {
            let (enter, inside) = (Arc::clone(&enter), Arc::clone(&inside));
            thread::spawn(move || {
                for _ in 0..2 {
                    let Some(place) = enter() else { continue };
                    let now = 1 + inside.fetch_add(1, Ordering::SeqCst);
                    assert!(now <= 2, "{now} are in, and two may");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(place);
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// One leaves and comes back while another one comes: one of them is in.
pub fn handed_over() {
    for (piece, enter) in pieces(1).into_iter().enumerate() {
        let place = enter().unwrap();
        let first = Arc::clone(&enter);
        let back = thread::spawn(move || {
            drop(place);
            first()
        });
        let other = enter();
        let back = back.join().unwrap();
        let inside = usize::from(other.is_some()) + usize::from(back.is_some());
        assert_eq!(inside, 1, "piece {piece}: {inside} are in, and there was one place");
    }
}

/// However they came and went: at the end there is room for two, and not for three.
pub fn given_back_once() {
    for enter in pieces(2) {
        let held = [enter().unwrap(), enter().unwrap()];
        let leave = held.map(|place| thread::spawn(move || drop(place)));
        let come = {
            let enter = Arc::clone(&enter);
            thread::spawn(move || drop(enter()))
        };
        leave.into_iter().for_each(|thread| thread.join().unwrap());
        come.join().unwrap();
        let _again = [enter().unwrap(), enter().unwrap()];
        assert!(enter().is_none(), "a place was given back twice");
    }
}
