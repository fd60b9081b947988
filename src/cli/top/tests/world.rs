//! What is known after what came.

use super::*;
use crate::cli::top::{
    model::Link,
    rows::{Breaker, TenantRow},
};

fn hear(app: &mut App, event: v1::Event, second: u64) {
    app.hear(Fed::Item(Item::Event(event)), at(second));
}

#[test]
fn a_snapshot_is_shown_whole_or_not_at_all() {
    let mut app = fleet();
    app.hear(
        Fed::Item(Item::Gap(v1::Gap {
            from_sequence: 5,
            to_sequence: 9,
            message: "slow".to_owned(),
        })),
        at(106),
    );
    app.hear(Fed::Item(Item::Session(session("AJ_9", "acme", "python-11", 1))), at(106));
    assert_eq!(app.world.sessions.len(), 6, "the old ones until it is complete");
    app.hear(Fed::Item(Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(9) })), at(106));
    assert_eq!(app.world.sessions.keys().collect::<Vec<_>>(), ["AJ_9"]);
    assert!(app.world.tail.back().unwrap().shown.contains("5 events missed"));
}

#[test]
fn counts_follow_events_but_none_is_counted_twice() {
    let mut app = fleet();
    let live = |app: &App| {
        let figures = app.world.figures.as_ref().unwrap();
        (app.world.tenants["acme"].state.live_sessions, figures.active_sessions)
    };
    assert_eq!(live(&app), (12, 20));
    hear(&mut app, acquired(10, "AJ_10", "acme", 13, 20), 106);
    assert_eq!(live(&app), (13, 21));
    // Figures that have the next event in them already, which comes after them.
    app.hear(figures(6, 11), at(106));
    hear(&mut app, ended(11, "AJ_10", "acme"), 106);
    assert_eq!(live(&app), (12, 20));
    assert!(!app.world.sessions.contains_key("AJ_10"));
}

#[test]
fn older_figures_do_not_set_a_switch_back() {
    let mut app = fleet();
    let suspended = event(10, v1::EventKind::TenantSuspended, "acme", None);
    hear(&mut app, suspended, 106);
    app.hear(figures(6, 9), at(106));
    assert!(app.world.tenants["acme"].state.suspension.is_some());
    app.hear(figures(7, 10), at(107));
    assert!(app.world.tenants["acme"].state.suspension.is_none(), "newer ones do");
}

#[test]
fn an_open_breaker_counts_down_between_figures() {
    let app = fleet();
    let left = |second| TenantRow::of(&app.world.tenants["broken"], at(second)).breaker;
    assert_eq!(left(105), Breaker::Open(Duration::from_secs(16)));
    assert_eq!(left(108), Breaker::Open(Duration::from_secs(13)));
    assert_eq!(left(10_000), Breaker::Open(Duration::ZERO));
}

#[test]
fn a_restarted_sidecar_begins_anew_without_nonsense_rates() {
    let mut app = fleet();
    app.hear(Fed::Down("it went away".to_owned()), at(106));
    app.hear(Fed::Down("no answer".to_owned()), at(109));
    assert!(matches!(&app.world.link, Link::Down { since, .. } if since.as_secs() == 106));
    app.hear(Fed::Up { resumed: true }, at(110));
    app.hear(Fed::Item(Item::Gap(v1::Gap::default())), at(110));
    app.hear(Fed::Item(Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(1) })), at(110));
    let Fed::Figures(mut new) = figures(0, 1) else { panic!() };
    new.start_time = wall(109);
    new.tenants.truncate(1);
    new.tenants[0].total_sessions_started = 1;
    new.total_sessions_started = 1;
    app.hear(Fed::Figures(new), at(110));
    assert_eq!(app.world.link, Link::Live);
    assert_eq!(app.tenants(at(110)).len(), 1);
    assert_eq!(app.tenants(at(110))[0].rates, None);
    assert!(app.world.sessions.is_empty());
}

#[test]
fn a_worker_that_goes_and_comes_takes_its_sessions_along() {
    let mut app = fleet();
    let of = |app: &App| app.world.sessions["AJ_0001"].state.state();
    let worker = |kind, sequence| v1::Event {
        worker: "python-11".to_owned(),
        ..event(sequence, kind, "", None)
    };
    hear(&mut app, worker(v1::EventKind::WorkerLost, 10), 106);
    assert_eq!(of(&app), v1::SessionState::Grace);
    hear(&mut app, worker(v1::EventKind::WorkerAttached, 11), 107);
    assert_eq!(of(&app), v1::SessionState::Active);
}

#[test]
fn a_blocked_loop_is_blamed_on_the_session_and_forgotten_after_a_while() {
    let mut app = fleet();
    let slow = Some(Detail::WorkerSlow(v1::WorkerSlow { blocked: span(900) }));
    let slow = v1::Event {
        worker: "python-11".to_owned(),
        session_id: "AJ_0001".to_owned(),
        ..event(6, v1::EventKind::WorkerSlow, "acme", slow)
    };
    hear(&mut app, slow, 106);
    let slow = |app: &App, id: &str, second| {
        app.sessions(at(second)).iter().find(|row| row.id() == id).unwrap().lag
    };
    assert_eq!(slow(&app, "AJ_0001", 107), Some(Duration::from_millis(900)));
    assert_eq!(slow(&app, "AJ_0002", 107), None, "its neighbour is not to blame");
    assert_eq!(slow(&app, "AJ_0001", 140), None);
}

#[test]
fn a_refused_made_up_tenant_gets_no_row_and_the_tail_is_bounded() {
    let mut app = fleet();
    for n in 0..3000 {
        let id = format!("made-up-{n}");
        hear(&mut app, event(10 + n, v1::EventKind::SessionRejected, &id, None), 106);
    }
    assert_eq!(app.world.tenants.len(), 6);
    assert_eq!(app.world.tail.len(), crate::cli::top::model::TAIL);
}

#[test]
fn the_flags_choose_tenants_agents_status_and_sort() {
    let mut app = fleet();
    app.wanted.tenants = vec!["small".to_owned(), "acme".to_owned()];
    assert_eq!(app.tenants(at(105)).len(), 2);
    assert_eq!(app.sessions(at(105)).len(), 4);
    app.wanted.agents = vec!["other".to_owned()];
    assert_eq!(app.sessions(at(105)).len(), 0);
    assert_eq!(app.counts(at(105)), [2, 0]);
}
