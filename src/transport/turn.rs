//! Turns: a connection answers some of its calls, and then the next one has its turn.
//!
//! A task for each call would queue them in the order in which they came in: whoever
//! sends 256 calls at once would have 256 answered before a neighbour's one. Here the
//! calls of a connection are polled by the connection's own task. One that has more of
//! them than its share waits in line with the others that do, and reads nothing more: a
//! flood waits in its own socket. The line moves by one turn each time that the thread
//! has looked what came in for anybody, so that who has few calls waits for one turn of
//! one flooder, however many flood, and over however many connections.
//!
//! It is cheaper, too: most calls are answered by their first poll, and need no task.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    stream::{FuturesUnordered, StreamExt as _},
    task::AtomicWaker,
};
use parking_lot::Mutex;
use tokio::task::yield_now;

/// Calls that a connection answers in one turn, where others have turns, too: what they
/// wait for.
const SHARE: u32 = 8;
/// Calls that one which is alone answers in a turn, and by one write.
const ALONE: u32 = 32;
/// Bytes that a connection may read in a turn, and what its buffer takes beyond them: so
/// many that streams which are reset as fast as they open come in together, and are known
/// by that; and so few that all of it may be messages of a few bytes, one to a frame. See
/// [`WINDOW`].
const READ: usize = 40 * 1024;
/// Bytes that a peer may send on all of its streams before they are looked at. h2 ends a
/// connection whose unread frames are small, each counted as what it lacks to 256 bytes,
/// and together more than half of this: a turn reads at most 48 KiB of frames of 14 bytes,
/// the least that holds a message, which count as 860 KiB.
pub const WINDOW: u32 = 2 * 1024 * 1024;

thread_local! {
    /// Calls that the connection whose turn it is may answer.
    static CALLS: Cell<u32> = const { Cell::new(u32::MAX) };
    /// Bytes that it may read.
    static BYTES: Cell<usize> = const { Cell::new(usize::MAX) };
    /// It was to read no more, though there may be more.
    static UNREAD: Cell<bool> = const { Cell::new(false) };
    /// One of its calls that answers many was to answer no more.
    static STEPPED: Cell<bool> = const { Cell::new(false) };
    /// Calls that it has just begun.
    static BEGUN: RefCell<VecDeque<Call>> = const { RefCell::new(VecDeque::new()) };
}

/// One that panics ends alone, as it would in a task of its own.
struct Call(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Call {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))).unwrap_or(Poll::Ready(()))
    }
}

/// Hands calls to the connection whose turn it is.
#[derive(Debug, Clone, Copy)]
pub struct ToTheTurn;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for ToTheTurn {
    fn execute(&self, call: F) {
        BEGUN.with_borrow_mut(|begun| begun.push_back(Call(Box::pin(call))));
    }
}

/// The turns of one thread's connections.
#[derive(Debug, Default)]
pub struct Round {
    line: Mutex<Line>,
    /// Connections that are behind: in the line, or at its head.
    behind: AtomicU32,
    /// Whose the last eight turns were, one byte each: the lower ones of its number.
    last: AtomicU64,
    next: AtomicU64,
}

/// Connections that have more calls than their turn allowed.
#[derive(Debug, Default)]
struct Line {
    /// Whose turn it is.
    head: Option<u64>,
    rest: VecDeque<(u64, Waker)>,
}

impl Line {
    /// The next one has its turn: behind whoever is ready by now, those included that
    /// something has come in for.
    fn go_on(&mut self) {
        let next = self.rest.pop_front();
        self.head = next.as_ref().map(|(number, _)| *number);
        if let Some((_, waker)) = next {
            let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
        }
    }
}

impl Round {
    fn is_anybody_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    fn is_turn_of(&self, number: u64) -> bool {
        self.line.lock().head == Some(number)
    }

    /// To the end of the line; where there is none, it has the next turn.
    fn join(&self, number: u64, waker: &Waker) {
        let mut line = self.line.lock();
        line.rest.push_back((number, waker.clone()));
        if line.head.is_none() {
            line.go_on();
        }
    }

    /// Its turn is over.
    fn end_turn(&self, number: u64) {
        let mut line = self.line.lock();
        if line.head == Some(number) {
            line.go_on();
        }
    }

    /// It is gone, wherever it was.
    fn leave(&self, number: u64) {
        self.line.lock().rest.retain(|(other, _)| *other != number);
        self.end_turn(number);
    }

    /// One had a turn with calls in it.
    fn had(&self, number: u64) {
        let turns = self.last.load(Ordering::Relaxed);
        self.last.store(turns << 8 | (number & 0xff), Ordering::Relaxed);
    }

    /// The last turns were all of this one.
    fn is_alone(&self, number: u64) -> bool {
        let only = u64::from_ne_bytes([number as u8; 8]);
        self.last.load(Ordering::Relaxed) == only
    }
}

/// A connection that is served in turns. Its future is `serving`'s; what calls it has
/// then end with it.
pub struct Turns<S> {
    serving: Pin<Box<S>>,
    /// Not polled yet.
    begun: VecDeque<Call>,
    waiting: FuturesUnordered<Share<Call>>,
    round: Arc<Round>,
    number: u64,
    /// It is in the line.
    behind: bool,
    /// What it has read is not answered yet.
    has_calls: bool,
    bell: Arc<Bell>,
    /// Of the bell.
    waker: Waker,
    ready: Arc<Ready>,
    /// Of those that wait: tells `ready`, and then the bell.
    of_waiting: Waker,
}

/// A call that was polled before. Each poll is one of the turn's calls, whether it ends
/// by it or not: a thousand that are decided and answered later take as long as a
/// thousand that are answered. Beyond the share it waits for the next turn.
pub struct Share<F>(pub F);

impl<F: Future + Unpin> Future for Share<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let left = CALLS.get();
        if left == 0 {
            return wait_for_next_turn(context);
        }
        let polled = Pin::new(&mut self.0).poll(context);
        // One that answers many has counted them.
        if CALLS.get() == left {
            count();
        }
        polled
    }
}

/// Tells that one of those that wait is ready, beside what else a connection is woken
/// for: the set of them may stop in the middle of those that are ready, and then wakes
/// whoever polls it.
struct Ready {
    is_any: AtomicBool,
    connection: Waker,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_any.store(true, Ordering::SeqCst);
        self.connection.wake_by_ref();
    }
}

/// Wakes a connection; in its own turn it is only told that there is more, so that it
/// does not come again for answers that have left.
#[derive(Default)]
struct Bell {
    in_turn: AtomicBool,
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order, and the turn's end in the other one: one of the two sees it.
        self.rung.store(true, Ordering::SeqCst);
        if !self.in_turn.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl<S: Future> Turns<S> {
    /// `serving` hands its calls to [`ToTheTurn`].
    pub fn new(serving: S, round: Arc<Round>) -> Self {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        let ready = Arc::new(Ready { is_any: AtomicBool::new(false), connection: waker.clone() });
        Self {
            serving: Box::pin(serving),
            begun: VecDeque::new(),
            waiting: FuturesUnordered::new(),
            number: round.next.fetch_add(1, Ordering::Relaxed),
            round,
            behind: false,
            has_calls: false,
            bell,
            of_waiting: Waker::from(Arc::clone(&ready)),
            ready,
            waker,
        }
    }

    /// What is served.
    pub fn serving(&mut self) -> Pin<&mut S> {
        self.serving.as_mut()
    }

    /// What was served, at its end; else whether calls are left for the next turn.
    fn turn(&mut self, context: &mut Context<'_>) -> ControlFlow<S::Output, bool> {
        let mut left = false;
        // To read and to answer. The answers leave when all that are ready have had their
        // turns, since the journal is written once for them all; but where some are behind,
        // nobody else is to wait for them once more: they leave at once.
        for first in [true, false] {
            self.bell.rung.store(false, Ordering::SeqCst);
            let served = self.serving.as_mut().poll(context);
            BEGUN.with_borrow_mut(|begun| self.begun.append(begun));
            if let Poll::Ready(served) = served {
                return ControlFlow::Break(served);
            }
            left = self.answer(first);
            if !self.round.is_anybody_behind() || !self.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        ControlFlow::Continue(left || STEPPED.get())
    }

    /// Whether calls are left for the next turn.
    fn answer(&mut self, first: bool) -> bool {
        // One of those that wait, and one new one, whatever the other kind does.
        let mut more = self.one_of_waiting();
        let mut one = first;
        while (one || CALLS.get() > 0)
            && let Some(mut call) = self.begun.pop_front()
        {
            one = false;
            let context = &mut Context::from_waker(&self.waker);
            if Pin::new(&mut call).poll(context).is_pending() {
                self.waiting.push(Share(call));
                more = true;
            }
            count();
        }
        while more && CALLS.get() > 0 {
            more = self.one_of_waiting();
        }
        more || !self.begun.is_empty()
    }

    /// Polls them until one ends; false: they all wait.
    fn one_of_waiting(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let left = CALLS.get();
        self.ready.is_any.store(false, Ordering::SeqCst);
        match self.waiting.poll_next_unpin(&mut Context::from_waker(&self.of_waiting)) {
            Poll::Ready(ended) => ended.is_some(),
            Poll::Pending => {
                let more = self.ready.is_any.load(Ordering::SeqCst);
                // It stopped before the first, which somebody is just making ready.
                if more && CALLS.get() == left {
                    count();
                }
                more
            }
        }
    }

    /// What comes after its turn.
    fn ends_turn(&mut self, left: bool, waker: &Waker) {
        let was_behind = std::mem::replace(&mut self.behind, left);
        if left {
            self.round.join(self.number, waker);
        }
        if was_behind {
            self.round.end_turn(self.number);
        }
        match (was_behind, left) {
            (false, true) => _ = self.round.behind.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.round.behind.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }
}

impl<S: Future> Future for Turns<S> {
    type Output = S::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<S::Output> {
        let me = &mut *self;
        me.bell.task.register(context.waker());
        if me.behind && !me.round.is_turn_of(me.number) {
            // Woken by what came in: it is in the line.
            return Poll::Pending;
        }
        me.bell.in_turn.store(true, Ordering::SeqCst);
        let waker = me.waker.clone();
        let share = if me.round.is_alone(me.number) { ALONE } else { SHARE };
        CALLS.set(share);
        // Nothing while it has calls: a flood waits in its socket, and h2 ends a connection
        // that has many small frames which nobody looks at.
        BYTES.set(if me.has_calls { 0 } else { READ });
        UNREAD.set(false);
        STEPPED.set(false);
        let turn = me.turn(&mut Context::from_waker(&waker));
        if CALLS.get() < share {
            me.round.had(me.number);
        }
        CALLS.set(u32::MAX);
        BYTES.set(usize::MAX);
        me.bell.in_turn.store(false, Ordering::SeqCst);
        me.has_calls = match turn {
            ControlFlow::Break(served) => return Poll::Ready(served),
            ControlFlow::Continue(left) => left,
        };
        let left = me.has_calls || UNREAD.get();
        me.ends_turn(left, context.waker());
        if !left && me.bell.rung.load(Ordering::SeqCst) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<S> Drop for Turns<S> {
    fn drop(&mut self) {
        if self.behind {
            self.round.behind.fetch_sub(1, Ordering::Relaxed);
            self.round.leave(self.number);
        }
    }
}

/// One more call of the turn was answered.
fn count() {
    CALLS.set(CALLS.get().saturating_sub(1));
}

/// For what answers many calls by itself: waits for the next turn when this one has had
/// its share.
pub fn poll_step(context: &mut Context<'_>) -> Poll<()> {
    if CALLS.get() == 0 {
        return wait_for_next_turn(context);
    }
    count();
    Poll::Ready(())
}

fn wait_for_next_turn<T>(context: &mut Context<'_>) -> Poll<T> {
    context.waker().wake_by_ref();
    STEPPED.set(true);
    Poll::Pending
}

/// Whether the connection may read in this turn. Else it is polled in the next.
pub fn may_read() -> bool {
    let may = BYTES.get() > 0;
    if !may {
        UNREAD.set(true);
    }
    may
}

/// It has read so much.
pub fn has_read(bytes: usize) {
    BYTES.set(BYTES.get().saturating_sub(bytes));
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Mutex};

    use hyper::rt::Executor as _;

    use super::*;

    type Said = Arc<Mutex<Vec<&'static str>>>;

    /// A connection whose peer sends `calls` at once, and stays.
    fn connection(
        calls: usize,
        who: &'static str,
        said: &Said,
    ) -> impl Future<Output = ()> + use<> {
        let said = Arc::clone(said);
        let mut left = calls;
        poll_fn(move |_| {
            for _ in 0..std::mem::take(&mut left) {
                let said = Arc::clone(&said);
                ToTheTurn.execute(async move { said.lock().unwrap().push(who) });
            }
            Poll::Pending
        })
    }

    fn spawn(serving: impl Future<Output = ()> + Send + 'static, round: &Arc<Round>) {
        tokio::spawn(Turns::new(serving, Arc::clone(round)));
    }

    fn count(said: &Said, who: &str) -> usize {
        said.lock().unwrap().iter().filter(|said| **said == who).count()
    }

    /// Once all of them are answered: how many of the others' come before the first of `who`.
    async fn before(who: &str, said: &Said, all: usize) -> usize {
        while said.lock().unwrap().len() < all {
            yield_now().await;
        }
        said.lock().unwrap().iter().position(|said| *said == who).unwrap()
    }

    #[tokio::test]
    async fn who_has_many_calls_answers_a_share_and_then_the_next_one_has_its_turn() {
        let (said, round) = (Said::default(), Arc::default());
        spawn(connection(1000, "flood", &said), &round);
        spawn(connection(1, "neighbour", &said), &round);
        assert_eq!(before("neighbour", &said, 1001).await, ALONE as usize);
    }

    #[tokio::test]
    async fn who_has_few_calls_waits_for_one_turn_however_many_flood() {
        let (said, round) = (Said::default(), Arc::default());
        for _ in 0..100 {
            spawn(connection(100, "flood", &said), &round);
        }
        // All of them have had a turn, and are in the line.
        while count(&said, "flood") < 100 * SHARE as usize {
            yield_now().await;
        }
        let so_far = count(&said, "flood");
        spawn(connection(1, "neighbour", &said), &round);
        let waited = before("neighbour", &said, 10_001).await - so_far;
        assert!(waited <= SHARE as usize, "{waited}");
        assert!(!round.is_anybody_behind());
    }

    #[tokio::test]
    async fn the_line_goes_on_behind_connections_that_end_in_it_or_at_its_head() {
        let (said, round) = (Said::default(), Arc::<Round>::default());
        let flood = |who| tokio::spawn(Turns::new(connection(500, who, &said), Arc::clone(&round)));
        let all = [flood("head"), flood("next"), flood("last")];
        while count(&said, "last") == 0 {
            yield_now().await;
        }
        all[1].abort();
        all[0].abort();
        while count(&said, "last") < 500 {
            yield_now().await;
        }
        assert!(count(&said, "head") < 500 && count(&said, "next") < 500);
        assert!(!round.is_anybody_behind());
    }

    #[tokio::test]
    async fn what_comes_in_gives_no_turn_to_one_in_the_line() {
        let (said, round) = (Said::default(), Arc::<Round>::default());
        let bell = Arc::new(AtomicWaker::new());
        let (mut calls, rings, heard) = (500, Arc::clone(&bell), Arc::clone(&said));
        let noisy = poll_fn(move |context: &mut Context<'_>| {
            rings.register(context.waker());
            for _ in 0..std::mem::take(&mut calls) {
                let said = Arc::clone(&heard);
                ToTheTurn.execute(async move { said.lock().unwrap().push("noisy") });
            }
            Poll::Pending
        });
        spawn(connection(500, "quiet", &said), &round);
        spawn(noisy, &round);
        while count(&said, "quiet") < 500 {
            bell.wake();
            yield_now().await;
        }
        // It had as many turns as the other, however often it was woken.
        assert!(count(&said, "noisy") <= 500, "{}", count(&said, "noisy"));
        let first = said.lock().unwrap()[..400].iter().filter(|who| **who == "noisy").count();
        assert!((150..=250).contains(&first), "{first} of 400");
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_behind_no_longer() {
        let (said, round) = (Said::default(), Arc::<Round>::default());
        let mut turns = Turns::new(connection(1000, "flood", &said), Arc::clone(&round));
        let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut turns).poll(context))).await;
        assert!(polled.is_pending() && turns.behind);
        drop(turns);
        assert_eq!(round.behind.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn new_calls_do_not_keep_those_that_wait_from_being_answered() {
        let (said, round) = (Said::default(), Arc::default());
        let (answer, told) = tokio::sync::oneshot::channel::<()>();
        let (mut waiting, heard) = (Some(told), Arc::clone(&said));
        let endless = poll_fn(move |context: &mut Context<'_>| {
            if let Some(told) = waiting.take() {
                let said = Arc::clone(&heard);
                ToTheTurn.execute(async move {
                    let _ = told.await;
                    said.lock().unwrap().push("waited");
                });
            }
            for _ in 0..2 * ALONE {
                ToTheTurn.execute(async {});
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        spawn(endless, &round);
        for _ in 0..10 {
            yield_now().await;
        }
        answer.send(()).unwrap();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(count(&said, "waited"), 1);
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let (said, round) = (Said::default(), Arc::default());
        let mut calls = Some(Arc::clone(&said));
        let serving = poll_fn(move |_| {
            if let Some(said) = calls.take() {
                ToTheTurn.execute(async { panic!("at once") });
                ToTheTurn.execute(async {
                    yield_now().await;
                    panic!("later")
                });
                ToTheTurn.execute(async move {
                    yield_now().await;
                    yield_now().await;
                    said.lock().unwrap().push("answered");
                });
            }
            Poll::Pending
        });
        spawn(serving, &round);
        before("answered", &said, 1).await;
    }

    #[tokio::test]
    async fn one_call_that_answers_many_waits_for_its_turns_too() {
        let (said, round) = (Said::default(), Arc::default());
        let mut work = Some(Arc::clone(&said));
        let serving = poll_fn(move |_| {
            if let Some(said) = work.take() {
                ToTheTurn.execute(async move {
                    for _ in 0..1000 {
                        poll_fn(poll_step).await;
                        said.lock().unwrap().push("flood");
                    }
                });
            }
            Poll::Pending
        });
        spawn(serving, &round);
        spawn(connection(1, "neighbour", &said), &round);
        let waited = before("neighbour", &said, 1001).await;
        assert!(waited <= ALONE as usize, "{waited}");
    }

    /// Reads of a turn, while calls that have waited together become ready together.
    #[tokio::test]
    async fn a_connection_reads_nothing_while_calls_that_waited_are_to_be_answered() {
        let (said, round) = (Said::default(), Arc::default());
        let (answer, told) = tokio::sync::watch::channel(false);
        let (mut calls, heard, notes) = (4 * SHARE, Arc::clone(&said), Arc::clone(&said));
        let serving = poll_fn(move |_| {
            for _ in 0..std::mem::take(&mut calls) {
                let (mut told, said) = (told.clone(), Arc::clone(&heard));
                ToTheTurn.execute(async move {
                    let _ = told.wait_for(|told| *told).await;
                    said.lock().unwrap().push("answered");
                });
            }
            let read = may_read();
            notes.lock().unwrap().push(if read { "read" } else { "not read" });
            Poll::Pending
        });
        // Two of them, so that none is alone.
        spawn(connection(100, "other", &Said::default()), &round);
        spawn(serving, &round);
        for _ in 0..100 {
            yield_now().await;
        }
        said.lock().unwrap().clear();
        answer.send(true).unwrap();
        for _ in 0..100 {
            yield_now().await;
        }
        let said = said.lock().unwrap();
        let answered = said.iter().filter(|said| **said == "answered").count();
        assert_eq!(answered, 4 * SHARE as usize);
        // It reads when it is woken, and when nothing is left.
        let last = said.iter().rposition(|said| *said == "answered").unwrap();
        let reads = said[1..last].iter().filter(|said| **said == "read").count();
        assert_eq!((said[0], reads), ("read", 0), "{said:?}");
    }

    /// Calls of which each is decided by a poll, and answered much later.
    #[tokio::test]
    async fn calls_that_are_decided_and_not_answered_yet_are_a_share_of_a_turn_too() {
        let (said, round) = (Said::default(), Arc::default());
        let (go, told) = tokio::sync::watch::channel(false);
        let (mut calls, heard, notes) = (4 * SHARE, Arc::clone(&said), Arc::clone(&said));
        let serving = poll_fn(move |_| {
            for _ in 0..std::mem::take(&mut calls) {
                let (mut told, said) = (told.clone(), Arc::clone(&heard));
                ToTheTurn.execute(async move {
                    let _ = told.wait_for(|told| *told).await;
                    said.lock().unwrap().push("decided");
                    // As one does that has a timer of its own.
                    poll_fn(|context| {
                        context.waker().wake_by_ref();
                        Poll::<()>::Pending
                    })
                    .await;
                });
            }
            let read = may_read();
            notes.lock().unwrap().push(if read { "read" } else { "not read" });
            Poll::Pending
        });
        spawn(connection(100, "other", &Said::default()), &round);
        spawn(serving, &round);
        for _ in 0..100 {
            yield_now().await;
        }
        said.lock().unwrap().clear();
        go.send(true).unwrap();
        while count(&said, "decided") < 4 * SHARE as usize {
            yield_now().await;
        }
        let said = said.lock().unwrap();
        let last = said.iter().rposition(|said| *said == "decided").unwrap();
        let turns: Vec<_> = said[..last].split(|said| *said != "decided").collect();
        assert!(turns.iter().all(|turn| turn.len() <= SHARE as usize), "{said:?}");
        let reads = said[1..last].iter().filter(|said| **said == "read").count();
        assert_eq!((said[0], reads), ("read", 0), "{said:?}");
    }

    #[tokio::test]
    async fn a_connection_reads_for_one_turn_and_nothing_while_it_is_behind() {
        let (reads, round) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::default());
        let (seen, mut first) = (Arc::clone(&reads), true);
        let serving = poll_fn(move |_| {
            let mut read = 0;
            while may_read() {
                has_read(1024);
                read += 1;
            }
            seen.lock().unwrap().push(read);
            for _ in 0..if std::mem::take(&mut first) { 3 * ALONE } else { 0 } {
                ToTheTurn.execute(async {});
            }
            Poll::Pending
        });
        spawn(serving, &round);
        while reads.lock().unwrap().len() < 4 {
            yield_now().await;
        }
        let a_turn = READ / 1024;
        assert_eq!(reads.lock().unwrap()[..4], [a_turn, 0, 0, a_turn]);
    }
}
