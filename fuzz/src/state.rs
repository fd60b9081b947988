//! Any state files amount to one image and take up the store, or are refused
//! with the line that is wrong. Damage to good ones is said, or costs nothing.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenantd::{
    app::ports::{EventSink, Journal, SessionStore as _, SharedCaps, Unrecorded},
    domain::{
        access::Owner,
        admission::Acquire,
        event::Event,
        record::{Image, Record},
        session::SessionId,
        time::{Now, Timestamp},
    },
    state::{
        line::{self, Line},
        read::{Found, Text, together},
    },
    store::memory::MemoryStore,
};

/// The boot that the seeds are of.
const BOOT: &str = "boot";
/// Between two files, on a line of its own; of the second the one before is stale.
const NEXT: [&[u8]; 2] = [b"\x1e", b"\x1f"];
/// Most ended sessions that the store remembers.
const ENDED: usize = 8;

/// Files, oldest first: as they are, and with the checksum of each line mended.
pub fn check(data: &[u8]) {
    read(&files(data));
    let mended: Vec<Text> = files(data).into_iter().map(mended).collect();
    let Some(found) = read(&mended) else { return };
    again(&found);
    damaged(&mended, &found, data);
    for rebooted in [found.rebooted, true] {
        taken_over(&found.image, rebooted);
    }
}

fn files(data: &[u8]) -> Vec<Text> {
    let mut texts = vec![Vec::new()];
    let mut stale = Vec::new();
    for text in data.split_inclusive(|byte| *byte == b'\n') {
        if let Some(kind) = NEXT.iter().position(|next| text.trim_ascii() == *next) {
            stale.push(kind == 1);
            texts.push(Vec::new());
        } else if let Some(last) = texts.last_mut() {
            last.extend_from_slice(text);
        }
    }
    stale.push(false);
    let named = (1..).zip(texts.into_iter().zip(stale));
    let text = |(number, (bytes, stale)): (u64, (Vec<u8>, bool))| Text {
        number,
        name: format!("journal.{number}{}", if stale { ".stale" } else { "" }),
        bytes,
    };
    named.map(text).collect()
}

/// Each whole line with the checksum that it should have, so that what is mutated
/// is what stands behind it.
fn mended(text: Text) -> Text {
    let mut bytes = Vec::new();
    for line in text.bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n").and_then(|line| line.get(9..)) {
            Some(json) => {
                bytes.extend(format!("{:08x} ", crc32fast::hash(json)).bytes());
                bytes.extend(json);
                bytes.push(b'\n');
            }
            None => bytes.extend(line),
        }
    }
    Text { bytes, ..text }
}

fn read(texts: &[Text]) -> Option<Found> {
    match together(texts, BOOT) {
        Ok(found) => Some(found),
        Err(said) => {
            assert!(said.starts_with("journal.") && said.len() < 200, "{said}");
            None
        }
    }
}

/// What was taken is written and read again as it is.
fn again(found: &Found) {
    for record in records(&found.image) {
        let mut bytes = Vec::new();
        line::write(&mut bytes, &record);
        let text = bytes.strip_suffix(b"\n").expect("is a line");
        assert!(!text.contains(&b'\n'), "one record is one line");
        let Ok(Line::Record(back)) = line::read(text) else { panic!("{record:?} is not read") };
        assert_eq!(to_a_bit(back), to_a_bit(record));
    }
    let mut image = Image::default();
    for _ in 0..2 {
        // Whatever is read twice.
        records(&found.image).into_iter().for_each(|record| image.apply(record));
        assert_eq!(image, found.image);
    }
}

/// With a ratio that knows no last bit: of one with more than fifteen digits
/// serde_json may read another one. The config brings its own at the start.
fn to_a_bit(mut record: Record) -> Record {
    if let Record::Terms { terms, .. } = &mut record {
        let limits = Arc::make_mut(&mut terms.limits);
        let ratio = &mut limits.breaker.failure_ratio;
        *ratio = f64::from(*ratio as f32);
    }
    record
}

fn records(image: &Image) -> Vec<Record> {
    let mut records = Vec::new();
    for (tenant, (terms, saved)) in &image.tenants {
        let tenant = || tenant.clone();
        records.push(Record::Terms { tenant: tenant(), terms: terms.clone() });
        records.push(Record::Switches { tenant: tenant(), switches: saved.switches.clone() });
        let breaker = saved.breaker.clone();
        records.extend(breaker.map(|breaker| Record::Breaker { tenant: tenant(), breaker }));
        let leases = saved.leases.values().cloned();
        records.extend(leases.map(|lease| Record::Lease(Box::new(lease))));
    }
    for (session, of) in &image.ended {
        records.push(Record::Ended {
            session: session.clone(),
            tenant: of.tenant.clone(),
            owner: of.owner.clone(),
            outcome: of.outcome,
            at: of.at,
        });
    }
    records
}

/// One bit of good files becomes another one. The end of a line that may be cut
/// short is the one place where that cannot be told from a write that never
/// returned.
fn damaged(texts: &[Text], found: &Found, data: &[u8]) {
    if found.rebooted {
        // What a machine that went down lost of a file is not said.
        return;
    }
    let seed = crc32fast::hash(data) as usize;
    for bit in 0..8 {
        let mut texts = texts.to_vec();
        let which = seed % texts.len();
        let text = &mut texts[which];
        if text.bytes.is_empty() {
            continue;
        }
        let at = (seed / 7).wrapping_add(bit * 131) % text.bytes.len();
        let last = text.bytes.iter().rposition(|byte| *byte == b'\n');
        let is_end = last.is_none_or(|last| at >= last);
        text.bytes[at] ^= 1 << bit;
        match together(&texts, BOOT) {
            Ok(other) => assert!(other == *found || is_end, "unsaid: byte {at} of file {which}"),
            Err(said) => assert!(said.starts_with("journal."), "{said}"),
        }
    }
}

/// Counts what is recorded.
#[derive(Default)]
struct Kept(Mutex<Vec<Record>>);

impl Journal for Kept {
    fn record(&self, records: &[Record]) -> Result<(), Unrecorded> {
        self.0.lock().expect("is whole").extend_from_slice(records);
        Ok(())
    }

    fn reserve(&self, _: u64) {}

    fn problem(&self) -> Option<String> {
        None
    }

    fn settle(&self) -> u64 {
        0
    }

    fn is_doubtful(&self, _: &SessionId) -> bool {
        false
    }

    fn has_lost(&self) -> bool {
        false
    }
}

const CAPS: SharedCaps = SharedCaps { agent: None, machine: 1000, unknown_tenants: 1000 };

fn acquire(session: SessionId) -> Acquire {
    Acquire {
        session,
        owner: Owner::default(),
        agent: None,
        worker: None,
        ttl: None,
        activate: true,
        draining: false,
        config_failed: None,
        config_version: String::new(),
        per_second: None,
    }
}

struct Nobody;

impl EventSink for Nobody {
    fn append(&self, _: Vec<Event>) {}

    fn head(&self) -> u64 {
        0
    }
}

/// Nothing that is read stops the start, or time after it.
fn taken_over(image: &Image, rebooted: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runs");
    let hour = Duration::from_secs(3600);
    let now = Now { mono: Timestamp::new(hour), wall: hour };
    let kept = Arc::new(Kept::default());
    let journal: Arc<dyn Journal> = Arc::<Kept>::clone(&kept);
    let store = MemoryStore::new(Arc::new(Nobody), journal, (ENDED, hour));
    store.restore(image.clone(), rebooted, now);
    runtime.block_on(async {
        for tenant in store.tenants().await {
            let mut from = 0;
            while let Some(next) = store.record_tenant(&tenant, from).expect("is recorded") {
                from = next;
            }
        }
        let mut recorded = kept.0.lock().expect("is whole").split_off(0);
        let leases = recorded.iter().filter(|record| matches!(record, Record::Lease(_))).count();
        assert!(leases <= image.live(), "{leases} of {}", image.live());
        let mut from = 0;
        while let Some(next) = store.record_ended(from).expect("is recorded") {
            from = next;
        }
        recorded = kept.0.lock().expect("is whole").split_off(0);
        assert!(recorded.len() <= ENDED, "{} ended ones are remembered", recorded.len());
        for hours in [0, 1, 24 * 365 * 600] {
            let by = Duration::from_secs(hours * 3600);
            let now = Now { mono: now.mono.plus(by), wall: now.wall + by };
            store.expire(hour, now).await;
            for (tenant, (terms, _)) in &image.tenants {
                let _ = store.snapshot(tenant, now).await;
                let id = SessionId::parse("another").expect("is one");
                let _ = store.acquire(tenant, terms, acquire(id), CAPS, now).await;
            }
        }
    });
}
