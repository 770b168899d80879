//! One run: its phases, how it ends, and what is said about it; and the command line of `vsr sim`.
//!
//! ```text
//!   safety: everything breaks ──► liveness: a core is healed ──► converged ──► checkers ──► report
//!      │ all calls made, or SAFETY_NS     │ LIVENESS_NS
//!      └── a checker complains: 129       ├── a proven reason to be stuck: named, counted, passed
//!          a replica dies: 127            └── else: 128
//! ```
//!
//! **Invariants:** what goes to stdout is a function of the seed and the flags; the last line says
//! `PASSED`, or what failed, with the seed.
//!
//! **Not here:** what happens in a run (`cluster`).

use super::checkers::CheckerReport;
use super::cluster::{Cluster, Repairs};
use super::fault::FaultCounts;
use super::options::Options;
use super::report;
use super::scheduler::{MS, SECOND};
use super::world::SharedWorld;
use std::cell::{Cell, RefCell};
use std::fmt;
use vsr::stdx::Prng;

/// The longest that everything breaks, virtual ns.
const SAFETY_NS: u64 = 30 * SECOND;
/// The longest that a healed core may take, virtual ns.
const LIVENESS_NS: u64 = 240 * SECOND;
/// How often a core is looked at, virtual ns.
const LOOK_NS: u64 = 100 * MS;
/// How long a reason to be stuck must last to be believed, virtual ns.
const EXCUSE_NS: u64 = 60 * SECOND;
/// Calls to be answered by a healed core.
const CALLS_AFTER: u64 = 30;

/// How a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A checker compared nothing.
    Vacuous(String),
    /// A replica died that should not have.
    Crash(String),
    /// The core made no progress.
    Liveness(String),
    /// Something happened that must never happen.
    Correctness(String),
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) hash: u64,
    pub(crate) events: u64,
    /// Virtual, ns.
    pub(crate) time: u64,
    pub(crate) core: Vec<usize>,
    pub(crate) ops: u64,
    pub(crate) answered: u64,
    pub(crate) unknown: u64,
    pub(crate) counts: FaultCounts,
    pub(crate) repairs: Repairs,
    pub(crate) reports: Vec<CheckerReport>,
    /// Why the core was allowed to be stuck.
    pub(crate) excuse: Option<&'static str>,
    pub(crate) failure: Option<Failure>,
    /// The last events, if it failed.
    pub(crate) last: Vec<String>,
}

impl Failure {
    /// The exit status of the process.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Vacuous(_) => 126,
            Self::Crash(_) => 127,
            Self::Liveness(_) => 128,
            Self::Correctness(_) => 129,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vacuous(text) => write!(f, "vacuous: {text}"),
            Self::Crash(text) => write!(f, "crash: {text}"),
            Self::Liveness(text) => write!(f, "liveness: {text}"),
            Self::Correctness(text) => write!(f, "correctness: {text}"),
        }
    }
}

thread_local! {
    /// When and in which process the thread is, for the report of a panic.
    static CONTEXT: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
    static WORLD: RefCell<Option<SharedWorld>> = const { RefCell::new(None) };
}

/// Notes where the run is, for the report of a panic.
pub(super) fn set_context(now: u64, process: usize) {
    CONTEXT.set((now, process));
}

/// Where the run was when a thread panicked: virtual ns, process, and its last events if the
/// panic left them in order.
pub(super) fn context() -> (u64, usize, Vec<String>) {
    let (now, process) = CONTEXT.get();
    let lines = WORLD.with(|world| {
        let world = world.try_borrow().ok()?;
        let world = world.as_ref()?.try_borrow().ok()?;
        Some(world.scheduler.trace.last().map(report::entry_line).collect())
    });
    (now, process, lines.unwrap_or_default())
}

/// Draws the knobs of a seed and sets those that are set. What is drawn gives way to what is set.
///
/// # Errors
/// A knob that there is not, or a value out of its bounds, or two that are set and do not agree.
pub(super) fn options_of(seed: u64, settings: &[(String, u64)]) -> Result<Options, String> {
    let mut options = Options::draw(&mut Prng::from_seed(seed).fork());
    for (name, value) in settings {
        options.set(name, *value)?;
    }
    let is_set = |knob: &str| settings.iter().any(|(name, _)| name == knob);
    if !is_set("pipeline") {
        options.pipeline = options.pipeline.min(options.slots / 8);
    } else if !is_set("slots") {
        options.slots = options.slots.max((8 * options.pipeline).next_multiple_of(64));
    }
    if is_set("pipeline") && !is_set("message_size") {
        options.message_size = options.message_size.max(message_size_min(options.pipeline));
    }
    if !is_set("block_size") {
        options.block_size = options.block_size.min(options.message_size);
    } else if !is_set("message_size") {
        options.message_size = options.message_size.max(options.block_size);
    }
    match options.geometry().invalid() {
        Some(reason) => Err(reason),
        None => Ok(options),
    }
}

/// Messages that take the headers of a pipeline.
fn message_size_min(pipeline: u64) -> u64 {
    let headers = (pipeline + 3) * u64::from(vsr::constants::HEADER_SIZE);
    headers.next_multiple_of(u64::from(vsr::constants::SECTOR_SIZE))
}

/// Runs a seed to its end.
pub(crate) fn run(seed: u64, options: Options, is_logged: bool) -> Outcome {
    let mut prng = Prng::from_seed(seed);
    // The first stream is the knobs'.
    drop(prng.fork());
    let mut cluster = Cluster::new(seed, options, is_logged, &mut prng);
    WORLD.set(Some(cluster.world.clone()));
    let mut core = Vec::new();
    let mut excuse = None;
    let mut failure = safety(&mut cluster).err();
    if failure.is_none() {
        core = cluster.heal_core();
        cluster.budget.max = cluster.budget.begun + CALLS_AFTER;
        cluster.budget.is_answer_owed = true;
        match liveness(&mut cluster, &core) {
            Ok(reason) => excuse = reason,
            Err(reason) => failure = Some(reason),
        }
    }
    let mut finals = Vec::new();
    if failure.is_none() && excuse.is_none() {
        cluster.show_disks(&core);
        match cluster.finals(&core) {
            Ok(states) => finals = states,
            Err(reason) => failure = Some(reason),
        }
    }
    if excuse.is_some() && !cluster.keeps_executed(&core) {
        let text = "what was executed lies whole on no disk of a core that is stuck";
        failure = Some(Failure::Correctness(text.to_owned()));
    }
    let reports = cluster.checkers.finish(&finals);
    let failure = failure.or_else(|| judge(&reports, excuse));
    let outcome = outcome(seed, &cluster, core, excuse, reports, failure);
    WORLD.set(None);
    outcome
}

fn outcome(
    seed: u64,
    cluster: &Cluster,
    core: Vec<usize>,
    excuse: Option<&'static str>,
    reports: Vec<CheckerReport>,
    failure: Option<Failure>,
) -> Outcome {
    let world = cluster.world.borrow();
    Outcome {
        seed,
        hash: world.scheduler.trace.hash(),
        events: world.scheduler.trace.events(),
        time: world.scheduler.now(),
        core,
        ops: cluster.op_max(),
        answered: cluster.budget.answered,
        unknown: cluster.budget.unknown,
        counts: world.scheduler.counts.clone(),
        repairs: cluster.repairs_total(),
        reports,
        excuse,
        last: match failure {
            Some(_) => world.scheduler.trace.last().map(report::entry_line).collect(),
            None => Vec::new(),
        },
        failure,
    }
}

/// Everything breaks, until all calls are made or the time is over.
fn safety(cluster: &mut Cluster) -> Result<(), Failure> {
    loop {
        if cluster.step()? && (cluster.is_workload_done() || cluster.now() >= SAFETY_NS) {
            return Ok(());
        }
    }
}

/// The core must finish all work. Returns why it was allowed not to, if it was.
fn liveness(cluster: &mut Cluster, core: &[usize]) -> Result<Option<&'static str>, Failure> {
    let start = cluster.now();
    let mut look_at = start;
    let mut excuse_since: Option<(&'static str, u64)> = None;
    loop {
        cluster.step()?;
        let now = cluster.now();
        if now < look_at {
            continue;
        }
        look_at = now + LOOK_NS;
        let Some(reason) = cluster.pending(core) else { return Ok(None) };
        if now >= start + LIVENESS_NS {
            let text = format!("core {core:?} after {} s: {reason}", LIVENESS_NS / SECOND);
            return Err(Failure::Liveness(text));
        }
        // To look for an excuse reads the disks: seldom.
        if (now - start) / SECOND % 20 == 19 && (now - start) % SECOND < LOOK_NS {
            excuse_since = match (cluster.excuse(core), excuse_since) {
                (None, _) => None,
                (Some(excuse), Some((before, since))) if before == excuse => {
                    if now - since >= EXCUSE_NS {
                        return Ok(Some(excuse));
                    }
                    Some((excuse, since))
                }
                (Some(excuse), _) => Some((excuse, now)),
            };
        }
    }
}

/// What the checkers found at the end.
fn judge(reports: &[CheckerReport], excuse: Option<&'static str>) -> Option<Failure> {
    for report in reports {
        if let Some(reason) = &report.failure {
            return Some(Failure::Correctness(format!("{}: {reason}", report.name)));
        }
    }
    // A core that may be stuck has nothing to show.
    let vacuous = reports.iter().find(|report| report.vacuous).filter(|_| excuse.is_none())?;
    let text = match vacuous.undecided {
        0 => format!("checker {} compared nothing", vacuous.name),
        some => format!("checker {} gave up all that it began, {some} histories", vacuous.name),
    };
    Some(Failure::Vacuous(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &'static str, compared: u64, failure: Option<&str>) -> CheckerReport {
        let failure = failure.map(str::to_owned);
        CheckerReport { name, compared, undecided: 0, vacuous: compared == 0, failure }
    }

    #[test]
    fn what_is_drawn_gives_way_to_what_is_set() {
        for seed in 0..100 {
            let set = |knobs: &[(&str, u64)]| {
                let knobs: Vec<_> =
                    knobs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
                options_of(seed, &knobs)
            };
            let options = set(&[("slots", 64)]).expect("any pipeline is made to fit");
            assert!(options.slots == 64 && options.pipeline <= 8);
            let options = set(&[("pipeline", 29)]).expect("any ring is made to fit");
            assert!(options.pipeline == 29 && options.slots >= 256);
            let options = set(&[("pipeline", 32)]).expect("any message is made to fit");
            assert!(options.pipeline == 32 && options.message_size >= 8192);
            assert!(set(&[("pipeline", 16), ("slots", 64)]).is_err(), "they do not agree");
        }
    }

    #[test]
    fn a_run_that_compared_nothing_proves_nothing() {
        let right = [report("commits", 5, None), report("order", 1, None)];
        assert_eq!(judge(&right, None), None);
        let vacuous = [report("commits", 5, None), report("order", 0, None)];
        let failure = judge(&vacuous, None).expect("nothing was compared");
        assert_eq!(failure, Failure::Vacuous("checker order compared nothing".into()));
        assert_eq!(failure.status(), 126);
        assert_eq!(judge(&vacuous, Some("a core that may be stuck")), None);
        let wrong = [report("order", 0, None), report("commits", 5, Some("two of one op"))];
        let failure = judge(&wrong, Some("a core that may be stuck")).expect("one is wrong");
        assert_eq!(failure, Failure::Correctness("commits: two of one op".into()));
        assert_eq!(failure.status(), 129);
    }
}
