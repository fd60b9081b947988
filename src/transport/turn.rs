//! Turns: a connection answers some of its calls, and then the next one has its turn.
//!
//! A task for each call would queue them in the order in which they came in: whoever
//! sends 256 calls at once would have 256 answered before a neighbour's one. Here the
//! calls of a connection are polled by the connection's own task, and one that has more
//! of them than its share goes to the end of its thread's queue with the rest. It
//! reads nothing more until that is done, so that a flood waits in its own socket.
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
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    stream::{FuturesUnordered, StreamExt as _},
    task::AtomicWaker,
};
use tokio::task::yield_now;

/// Calls that the connections of one thread which have more to do answer in one round of
/// turns, together: a neighbour waits for so many at most, whoever floods with however
/// many connections. One that is alone answers so many in a turn, and by one write.
const ROUND: u32 = 32;
/// Bytes that one call is taken to have, for what a connection may read in a turn where
/// some are behind.
const CALL_BYTES: u32 = 128;
/// Bytes that it may read where nobody is behind: so many that streams which are reset as
/// fast as they open come in together, and are known by that.
const READ: u32 = 64 * 1024;

thread_local! {
    /// Calls that the connection whose turn it is may answer.
    static CALLS: Cell<u32> = const { Cell::new(u32::MAX) };
    /// Bytes that it may read.
    static BYTES: Cell<u32> = const { Cell::new(u32::MAX) };
    /// It was to do no more, though there may be more.
    static STOPPED: Cell<bool> = const { Cell::new(false) };
    /// Calls that it has just begun.
    static BEGUN: RefCell<VecDeque<Call>> = const { RefCell::new(VecDeque::new()) };
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands calls to the connection whose turn it is.
#[derive(Debug, Clone, Copy)]
pub struct ToTheTurn;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for ToTheTurn {
    fn execute(&self, call: F) {
        BEGUN.with_borrow_mut(|begun| begun.push_back(Box::pin(call)));
    }
}

/// The connections of one thread that have more calls than their turn allowed.
#[derive(Debug, Default)]
pub struct Round(AtomicU32);

impl Round {
    fn is_anybody_behind(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Calls that a connection may answer in its turn.
    fn share(&self) -> u32 {
        (ROUND / self.0.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Bytes that it may read.
    fn bytes(&self) -> u32 {
        if self.is_anybody_behind() { self.share() * CALL_BYTES } else { READ }
    }
}

/// A connection that is served in turns. Its future is `serving`'s; what calls it has
/// then end with it.
pub struct Turns<S> {
    serving: Pin<Box<S>>,
    /// Not polled yet.
    begun: VecDeque<Call>,
    waiting: FuturesUnordered<Call>,
    round: Arc<Round>,
    behind: bool,
    bell: Arc<Bell>,
    /// Of the bell.
    waker: Waker,
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
        Self {
            serving: Box::pin(serving),
            begun: VecDeque::new(),
            waiting: FuturesUnordered::new(),
            round,
            behind: false,
            bell,
            waker,
        }
    }

    /// What is served.
    pub fn serving(&mut self) -> Pin<&mut S> {
        self.serving.as_mut()
    }

    /// What was served, at its end; else whether something is left for the next turn.
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
            left = self.answer(first, context);
            if !self.round.is_anybody_behind() || !self.bell.rung.load(Ordering::SeqCst) {
                break;
            }
        }
        ControlFlow::Continue(left || STOPPED.get())
    }

    /// Whether calls may be left for the next turn.
    fn answer(&mut self, first: bool, context: &mut Context<'_>) -> bool {
        if !first && CALLS.get() == 0 {
            return true;
        }
        // One of those that wait, and one new one, whatever the other kind does.
        let mut more = self.one_of_waiting(context);
        while let Some(mut call) = self.begun.pop_front() {
            if polled(&mut call, context).is_pending() {
                self.waiting.push(call);
                more = true;
            }
            if !may_go_on() {
                return true;
            }
        }
        while more {
            if CALLS.get() == 0 {
                return true;
            }
            more = self.one_of_waiting(context);
        }
        false
    }

    /// Polls them until one ends; false: they all wait.
    fn one_of_waiting(&mut self, context: &mut Context<'_>) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let ended = catch_unwind(AssertUnwindSafe(|| self.waiting.poll_next_unpin(context)));
        // One that panicked is gone, and another may be ready.
        let more = !matches!(ended, Ok(Poll::Pending | Poll::Ready(None)));
        if more {
            may_go_on();
        }
        more
    }

    fn fell_behind(&mut self, behind: bool) {
        if self.behind != behind {
            self.behind = behind;
            let _ = if behind {
                self.round.0.fetch_add(1, Ordering::Relaxed)
            } else {
                self.round.0.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl<S: Future> Future for Turns<S> {
    type Output = S::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<S::Output> {
        let me = &mut *self;
        me.bell.task.register(context.waker());
        me.bell.in_turn.store(true, Ordering::SeqCst);
        let waker = me.waker.clone();
        CALLS.set(me.round.share());
        // Nothing while it has calls that it has not begun: a flood waits in its socket.
        BYTES.set(if me.begun.is_empty() { me.round.bytes() } else { 0 });
        STOPPED.set(false);
        let turn = me.turn(&mut Context::from_waker(&waker));
        CALLS.set(u32::MAX);
        BYTES.set(u32::MAX);
        me.bell.in_turn.store(false, Ordering::SeqCst);
        let left = match turn {
            ControlFlow::Break(served) => return Poll::Ready(served),
            ControlFlow::Continue(left) => left,
        };
        me.fell_behind(left);
        if left {
            // Behind whoever is ready by now, those included that something has come in for.
            let _ = pin!(yield_now()).poll(context);
        } else if me.bell.rung.load(Ordering::SeqCst) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<S> Drop for Turns<S> {
    fn drop(&mut self) {
        if self.behind {
            self.round.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A call that panics ends alone, as it would in a task of its own.
fn polled(call: &mut Call, context: &mut Context<'_>) -> Poll<()> {
    catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))).unwrap_or(Poll::Ready(()))
}

/// One more call of the turn was answered; false: it was the last one.
fn may_go_on() -> bool {
    let left = CALLS.get().saturating_sub(1);
    CALLS.set(left);
    left > 0
}

/// For what answers many calls by itself: waits for the next turn when this one has had
/// its share.
pub async fn step() {
    std::future::poll_fn(|context| {
        if CALLS.get() == 0 {
            context.waker().wake_by_ref();
            STOPPED.set(true);
            return Poll::Pending;
        }
        may_go_on();
        Poll::Ready(())
    })
    .await;
}

/// How many bytes the connection may read in this turn. None: it is polled in the next.
pub fn may_read() -> usize {
    let may = BYTES.get();
    if may == 0 {
        STOPPED.set(true);
    }
    may as usize
}

/// It has read so much.
pub fn has_read(bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
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
        assert_eq!(before("neighbour", &said, 1001).await, ROUND as usize);
    }

    #[tokio::test]
    async fn those_that_are_behind_share_a_round() {
        let (said, round) = (Said::default(), Arc::default());
        for _ in 0..16 {
            spawn(connection(1000, "flood", &said), &round);
        }
        // All of them have had a turn, and are behind.
        while count(&said, "flood") < 16 * 2 {
            yield_now().await;
        }
        yield_now().await;
        let so_far = count(&said, "flood");
        spawn(connection(1, "neighbour", &said), &round);
        let waited = before("neighbour", &said, 16_001).await - so_far;
        assert!(waited <= 2 * ROUND as usize, "{waited}");
        assert_eq!(round.share(), ROUND, "nobody is behind any more");
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_behind_no_longer() {
        let (said, round) = (Said::default(), Arc::<Round>::default());
        let mut turns = Turns::new(connection(1000, "flood", &said), Arc::clone(&round));
        let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut turns).poll(context))).await;
        assert!(polled.is_pending() && turns.behind);
        drop(turns);
        assert_eq!(round.0.load(Ordering::Relaxed), 0);
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
            for _ in 0..2 * ROUND {
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
                        step().await;
                        said.lock().unwrap().push("flood");
                    }
                });
            }
            Poll::Pending
        });
        spawn(serving, &round);
        spawn(connection(1, "neighbour", &said), &round);
        let waited = before("neighbour", &said, 1001).await;
        assert!(waited <= ROUND as usize, "{waited}");
    }

    #[tokio::test]
    async fn a_connection_reads_for_one_turn_and_nothing_while_it_is_behind() {
        let (reads, round) = (Arc::<Mutex<Vec<u32>>>::default(), Arc::default());
        let (seen, mut first) = (Arc::clone(&reads), true);
        let serving = poll_fn(move |_| {
            let mut read = 0;
            while may_read() > 0 {
                has_read(1024);
                read += 1;
            }
            seen.lock().unwrap().push(read);
            for _ in 0..if std::mem::take(&mut first) { 3 * ROUND } else { 0 } {
                ToTheTurn.execute(async {});
            }
            Poll::Pending
        });
        spawn(serving, &round);
        while reads.lock().unwrap().len() < 4 {
            yield_now().await;
        }
        // In the end it is behind itself, for the next turn.
        let (alone, behind) = (READ / 1024, ROUND * CALL_BYTES / 1024);
        assert_eq!(reads.lock().unwrap()[..4], [alone, 0, 0, behind]);
    }
}
