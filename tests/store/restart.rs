//! The store over restarts of its process, with its state in real files.

use std::{path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use tenantd::{
    app::ports::{Change, EventSink, Journal, SessionStore, Unrecorded},
    domain::{
        access::{Claim, Owner, TokenHash},
        event::{Actor, Kind},
        record::Record,
        reject::Reason,
        session::{EndCause, Outcome, Renewal, SessionId},
        time::Now,
    },
    state,
    store::memory::MemoryStore,
};

use crate::{
    model::{self, Op},
    support::{Ask, Bench, session, tenant, terms, worker},
};

/// As `model::op`, with a kill now and then.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![9 => model::op(), 1 => Just(Op::Restart)]
}

/// Takes the state of a folder over, as the server does.
async fn take_over(
    folder: &Path,
    sink: Arc<dyn EventSink>,
    now: Now,
    reboot: bool,
) -> Arc<MemoryStore> {
    let opened = state::open(folder).unwrap();
    assert_eq!(opened.lost, None);
    let journal: Arc<dyn Journal> = Arc::<state::journal::Files>::clone(&opened.journal);
    let kept = (100_000, Duration::from_secs(100_000));
    let store = Arc::new(MemoryStore::new(sink, journal, kept));
    store.restore(opened.image, opened.rebooted || reboot, now);
    record_all(&store, &opened.journal).await;
    store
}

/// Records everything in a new file, as the server does.
async fn record_all(store: &MemoryStore, files: &state::journal::Files) {
    files.begin().unwrap();
    for tenant in store.tenants().await {
        let mut from = 0;
        while let Some(next) = store.record_tenant(&tenant, from).unwrap() {
            from = next;
            tokio::task::yield_now().await;
        }
    }
    let mut from = 0;
    while let Some(next) = store.record_ended(from).unwrap() {
        from = next;
        tokio::task::yield_now().await;
    }
    files.complete().unwrap();
    files.remove_old();
}

pub async fn play(ops: Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let make = async |sink, now| {
        let store: Arc<dyn SessionStore> = take_over(folder.path(), sink, now, false).await;
        store
    };
    model::play(make, ops).await;
}

async fn bench(folder: &Path) -> Bench {
    let mut bench = Bench::new(super::memory);
    restart(&mut bench, folder, false).await;
    bench
}

async fn restart(bench: &mut Bench, folder: &Path, reboot: bool) {
    // The old process's lock ends with it.
    bench.store = super::memory(bench.log.clone());
    bench.store = take_over(folder, bench.log.clone(), bench.now, reboot).await;
}

fn causes(bench: &Bench) -> Vec<EndCause> {
    let ended = bench.log.all().into_iter().filter_map(|event| match event.kind {
        Kind::SessionEnded { cause, .. } => Some(cause),
        _ => None,
    });
    ended.collect()
}

#[tokio::test]
async fn a_held_session_waits_for_its_worker_and_ends_once_when_that_does_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    for (id, by) in [("back", "w1"), ("dead", "w2")] {
        bench.acquire(&Ask::new("a", id).cap(2).worker(by)).await.unwrap();
        let held = Renewal { worker: Some(worker(by)), ttl: None, held: true };
        bench.store.renew(&session(id), &Claim::Sidecar, held, bench.now).await.unwrap();
    }
    // Longer than a TTL: streams need no renewals, and no records of them.
    bench.wait(Duration::from_secs(300)).await;
    restart(&mut bench, folder.path(), false).await;
    let refused = bench.acquire(&Ask::new("a", "third").cap(2)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::TenantAtCap);
    bench.store.attach(&worker("w1"), &Owner::default(), bench.now).await;
    bench.wait(Duration::from_secs(11)).await;
    assert_eq!(causes(&bench), [EndCause::WorkerLost]);
    assert!(bench.store.session(&session("back"), &Claim::Sidecar).await.is_ok());
    restart(&mut bench, folder.path(), false).await;
    let late = bench.acquire(&Ask::new("a", "dead").cap(2)).await.unwrap_err();
    assert_eq!(late.reason, Reason::SessionEnded, "an ended id starts no ghost");
}

#[tokio::test]
async fn a_session_without_a_stream_lives_until_its_own_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    bench.acquire(&Ask::new("a", "s").worker("w1")).await.unwrap();
    // Renewed in small steps: not each of them is recorded, none is forgotten.
    for _ in 0..40 {
        bench.wait(Duration::from_secs(2)).await;
        bench
            .store
            .renew(&session("s"), &Claim::Sidecar, Renewal::default(), bench.now)
            .await
            .unwrap();
    }
    restart(&mut bench, folder.path(), false).await;
    bench.wait(Duration::from_secs(59)).await;
    assert_eq!(causes(&bench), []);
    bench.wait(Duration::from_secs(10)).await;
    assert_eq!(causes(&bench), [EndCause::TtlExpired]);
}

#[tokio::test]
async fn what_operators_set_and_an_open_breaker_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    let actor = Actor { name: "uid:0".to_owned(), note: "key leaked".to_owned() };
    for (of, change) in [
        ("suspended", Change::Suspend),
        ("capped", Change::Cap(Some(Some(1)))),
        ("lifted", Change::Cap(Some(None))),
        ("open", Change::OpenBreaker(Some(Duration::from_secs(100)))),
    ] {
        let terms = terms(Some(5));
        bench.store.change(&tenant(of), &terms, change, &actor, bench.now).await.unwrap();
    }
    for reboot in [false, true] {
        bench.wait(Duration::from_secs(10)).await;
        restart(&mut bench, folder.path(), reboot).await;
        let refused = bench.acquire(&Ask::new("suspended", "s1")).await.unwrap_err();
        assert!(refused.message.contains("key leaked"), "{refused}");
        let cap = async |of| bench.store.snapshot(&tenant(of), bench.now).await.unwrap().view.cap;
        assert_eq!(cap("capped").await, Some(1));
        assert_eq!(cap("lifted").await, None);
        let refused = bench.acquire(&Ask::new("open", "s2")).await;
        if reboot {
            assert!(refused.is_ok(), "a breaker of before the boot is forgotten");
        } else {
            assert_eq!(refused.unwrap_err().retry_after, Some(Duration::from_secs(90)));
        }
    }
}

#[tokio::test]
async fn a_reboot_revives_no_session_and_each_has_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    for n in 0..1000 {
        bench.acquire(&Ask::new("a", format!("s{n}"))).await.unwrap();
    }
    restart(&mut bench, folder.path(), true).await;
    assert_eq!(bench.store.totals().await.live, 0);
    assert_eq!(causes(&bench).len(), 1000);
    restart(&mut bench, folder.path(), false).await;
    assert_eq!(causes(&bench).len(), 1000, "ended twice");
}

/// As a process of the boot before had left them.
fn of_an_earlier_boot(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().contains("journal.") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let mut begin: serde_json::Value = serde_json::from_str(&first[9..]).unwrap();
        begin["boot"] = "another".into();
        let json = begin.to_string();
        let sum = crc32fast::hash(json.as_bytes());
        std::fs::write(&path, format!("{sum:08x} {json}\n{rest}")).unwrap();
    }
}

#[tokio::test]
async fn a_start_that_is_killed_after_a_reboot_revives_no_session_either() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(folder.path()).await;
    bench.acquire(&Ask::new("a", "s")).await.unwrap();
    drop(bench);
    of_an_earlier_boot(folder.path());
    // Killed when it had begun its first file, before everything was in it.
    let opened = state::open(folder.path()).unwrap();
    assert!(opened.rebooted);
    opened.journal.begin().unwrap();
    opened.journal.reserve(7);
    drop(opened);
    let again = state::open(folder.path()).unwrap();
    assert!(again.rebooted, "the session is of the boot before, whatever came after it");
    assert_eq!(again.image.live(), 1);
}

#[tokio::test]
async fn a_whole_file_is_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    bench.acquire(&Ask::new("a", "s")).await.unwrap();
    let old: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    let old = old.into_iter().find(|path| path.to_string_lossy().contains("journal.")).unwrap();
    let text = std::fs::read(&old).unwrap();
    bench
        .store
        .release(&session("s"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await
        .unwrap();
    restart(&mut bench, folder.path(), false).await;
    // Killed before it was removed; and even its end is not to be read any more.
    std::fs::write(&old, [&text[..], b"nonsense\n"].concat()).unwrap();
    restart(&mut bench, folder.path(), false).await;
    assert_eq!(bench.store.totals().await.live, 0);
}

#[tokio::test]
async fn a_session_is_its_owners_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    let owner = |token| Owner { identity: Some("fleet".into()), lease: Some(TokenHash::of(token)) };
    for id in ["s", "gone"] {
        bench.acquire(&Ask { owner: owner("its"), ..Ask::new("a", id) }).await.unwrap();
    }
    bench
        .store
        .release(&session("gone"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await
        .unwrap();
    restart(&mut bench, folder.path(), false).await;
    restart(&mut bench, folder.path(), false).await;
    let (its, other) = (owner("its"), owner("another's"));
    for id in ["s", "gone"] {
        let refused =
            bench.acquire(&Ask { owner: other.clone(), ..Ask::new("a", id) }).await.unwrap_err();
        assert_eq!(refused.reason, Reason::SessionConflict);
    }
    let retried = bench.acquire(&Ask { owner: its.clone(), ..Ask::new("a", "s") }).await.unwrap();
    assert!(!retried.created);
    let ended = bench.acquire(&Ask { owner: its, ..Ask::new("a", "gone") }).await.unwrap_err();
    assert_eq!(ended.reason, Reason::SessionEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_begun_anew_under_churn_forget_no_session_and_revive_none() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let opened = state::open(folder.path()).unwrap();
        let journal: Arc<dyn Journal> = Arc::<state::journal::Files>::clone(&opened.journal);
        let mut bench = Bench::new(super::memory);
        let kept = (100_000, Duration::from_secs(100_000));
        let store = Arc::new(MemoryStore::new(bench.log.clone(), journal, kept));
        opened.journal.begin().unwrap();
        opened.journal.complete().unwrap();
        bench.store = Arc::<MemoryStore>::clone(&store);
        // More than are recorded at a time.
        for n in 0..600 {
            bench.acquire(&Ask::new("a", format!("k-{}", n * 5))).await.unwrap();
        }
        let (bench, files) = (Arc::new(bench), opened.journal);
        let recorder = tokio::spawn({
            let (store, files) = (Arc::clone(&store), Arc::clone(&files));
            async move {
                record_all(&store, &files).await;
                // What is recorded anew must not be older than what stands there:
                // nothing after it would mend that.
                for tenant in [tenant("a"), tenant("b")].iter().cycle() {
                    let mut from = 0;
                    while let Some(next) = store.record_tenant(tenant, from).unwrap() {
                        from = next;
                        tokio::task::yield_now().await;
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        let churn: Vec<_> = (0..4)
            .map(|thread| {
                let bench = Arc::clone(&bench);
                tokio::spawn(async move {
                    for n in 0..200 {
                        let id = format!("s{thread}-{n}");
                        let ask = Ask::new(["a", "b"][n % 2], id.clone());
                        bench.acquire(&ask).await.unwrap();
                        if n % 5 > 0 {
                            let (id, claim) = (session(&id), Claim::Sidecar);
                            let done = Outcome::Success;
                            bench.store.release(&id, &claim, done, None, bench.now).await.unwrap();
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for thread in churn {
            thread.await.unwrap();
        }
        recorder.abort();
        let _ = recorder.await;
        drop((bench, store, files));
        let image = state::open(folder.path()).unwrap().image;
        assert_eq!((image.live(), image.ended.len()), (4 * 40 + 600, 4 * 160));
        let live = image.tenants.values().flat_map(|(_, saved)| saved.leases.keys());
        for id in live {
            let n: usize = id.as_str().rsplit_once('-').unwrap().1.parse().unwrap();
            assert_eq!(n % 5, 0, "{id} had ended");
        }
    }
}

/// Of which the last write failed, with the grant of `doubtful` in it.
struct Broken {
    doubtful: SessionId,
}

impl Journal for Broken {
    fn record(&self, _: &[Record]) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn settle(&self) -> u64 {
        1
    }

    fn is_doubtful(&self, session: &SessionId) -> bool {
        *session == self.doubtful
    }

    fn reserve(&self, _: u64) {}

    fn problem(&self) -> Option<String> {
        Some("input/output error".to_owned())
    }

    fn has_lost(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_grant_that_nobody_wrote_down_is_not_told_to_a_retry_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path()).await;
    for id in ["told", "lost"] {
        bench.acquire(&Ask::new("a", id)).await.unwrap();
    }
    restart_broken(&mut bench, folder.path(), "lost");
    let refused = bench.acquire(&Ask::new("a", "lost")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Undecided);
    bench.acquire(&Ask::new("a", "told")).await.unwrap();
}

/// The same sessions, on a journal that is broken.
fn restart_broken(bench: &mut Bench, folder: &Path, doubtful: &str) {
    bench.store = super::memory(bench.log.clone());
    let image = state::open(folder).unwrap().image;
    let journal = Arc::new(Broken { doubtful: session(doubtful) });
    let store = MemoryStore::new(bench.log.clone(), journal, (100, Duration::from_secs(100)));
    store.restore(image, false, bench.now);
    bench.store = Arc::new(store);
}
