//! From the list of cases to trials, and from trials to an exit code.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::fs::Mode;

use crate::case::Case;
use crate::mounted::CONNECTIONS;
use crate::place::Place;
use crate::process::{AT, Job, Outcome, Role, Through};
use crate::sample::Sample;
use crate::target::{self, Target};
use crate::verdict::{self, Run};
use crate::{Skip, Suite, Targets, serve};

/// Runs the trials of a suite, or those that need none; or does the job of this process.
pub(crate) fn run(suite: Option<Suite>, groups: &[&[Case]]) -> ExitCode {
    let cases = || groups.iter().copied().flatten();
    if let Some(job) = Job::of_this_process() {
        let case = cases().find(|case| case.full_name() == job.case).expect("a case of this program");
        let target = target::ALL.iter().find(|target| target.name == job.target).expect("a target");
        return serve::work(&job, suite.as_ref(), case, target);
    }
    let arguments = Arguments::from_args();
    if !rustix::process::geteuid().is_root() {
        eprintln!("the conformance suite mounts, changes owners and makes devices: run it as root");
        return ExitCode::FAILURE;
    }
    let skips = suite.map_or(&[][..], |suite| suite.skips);
    let pairs: Vec<(&Case, &Target)> = target::ALL
        .iter()
        .filter(|target| target.needs_frontend() == suite.is_some())
        .flat_map(|target| cases().map(move |case| (case, target)))
        .filter(|(case, target)| target.takes(&case.check))
        .collect();
    let unknown: Vec<_> = skips.iter().filter(|skip| !skip.names_only_what_is_in(&pairs)).collect();
    if !unknown.is_empty() {
        for skip in unknown {
            eprintln!("{skip:?} names what there is not: remove it, or correct its names");
        }
        return ExitCode::FAILURE;
    }
    // Users without privileges must reach what is made here.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let runner = Arc::new(Runner::new(suite));
    let trials = pairs
        .into_iter()
        .map(|(case, target)| {
            let (case, target, runner) = (*case, *target, Arc::clone(&runner));
            let skip = skips.iter().find(|skip| skip.names(&case, &target));
            Trial::ignorable_test(format!("{}::{}", target.name, case.full_name()), move || {
                runner.trial(&case, &target, skip)
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

impl Skip {
    fn names(&self, case: &Case, target: &Target) -> bool {
        let here = match self.targets {
            Targets::All => true,
            Targets::Only(names) => names.contains(&target.name),
        };
        here && self.case == case.full_name()
    }

    fn names_only_what_is_in(&self, pairs: &[(&Case, &Target)]) -> bool {
        let targets: Vec<_> =
            pairs.iter().filter(|pair| self.case == pair.0.full_name()).map(|pair| pair.1.name).collect();
        match self.targets {
            Targets::All => !targets.is_empty(),
            Targets::Only(names) => !names.is_empty() && names.iter().all(|name| targets.contains(name)),
        }
    }
}

/// What the trials of one run share.
struct Runner {
    suite: Option<Suite>,
    place: Place,
    sample: OnceLock<()>,
    next: AtomicUsize,
}

impl Runner {
    fn new(suite: Option<Suite>) -> Self {
        Self { suite, place: Place::new(), sample: OnceLock::new(), next: AtomicUsize::new(0) }
    }

    fn trial(&self, case: &Case, target: &Target, skip: Option<&Skip>) -> Result<Completion, Failed> {
        match (self.run_on(case, target, Through::Frontend), skip) {
            (Outcome::Passed, None) => Ok(Completion::Completed),
            (Outcome::Passed, Some(skip)) => {
                let reason = skip.reason;
                Err(format!("it is skipped ({reason}), but it passes now: remove the skip").into())
            }
            (Outcome::Failed(_), Some(skip)) => Ok(Completion::ignored_with(skip.reason)),
            (failed, None) => Err(self.judge(case, target, failed).into()),
        }
    }

    /// Finds out what is to blame for a failure.
    fn judge(&self, case: &Case, target: &Target, outcome: Outcome) -> String {
        let through = |frontend: &str| format!("{} through {frontend}", target.name);
        let place = match &self.suite {
            Some(suite) => through(suite.frontend.name()),
            None => target.name.to_owned(),
        };
        let mut runs = vec![Run { place, outcome }];
        if !target.needs_frontend() {
            return verdict::explain(verdict::Blame::Case, &runs);
        }
        let twin = Target::local_twin(&case.check);
        let locally = twin.map(|twin| Run {
            place: twin.name.to_owned(),
            outcome: self.run_on(case, &twin, Through::Frontend),
        });
        let fails_locally = locally.as_ref().is_some_and(Run::failed);
        let reference = self.suite.and_then(|suite| suite.reference).filter(|_| !fails_locally);
        let elsewhere = reference.map(|reference| Run {
            place: through(reference.name()),
            outcome: self.run_on(case, target, Through::Reference),
        });
        let blame = verdict::blame(locally.as_ref(), elsewhere.as_ref());
        runs.extend(locally.into_iter().chain(elsewhere));
        verdict::explain(blame, &runs)
    }

    fn run_on(&self, case: &Case, target: &Target, through: Through) -> Outcome {
        let sample = self.place.path().join("sample");
        if case.needs_sample() {
            self.sample.get_or_init(|| Sample(&sample).make());
        }
        let dir = self.new_directory();
        let job = Job {
            role: Role::Serve,
            case: case.full_name(),
            target: target.name.to_owned(),
            through,
            sample,
            dir: dir.clone(),
            at: dir.join(AT),
        };
        let outcome = job.run();
        if let Err(error) = fs::remove_dir_all(&dir) {
            eprintln!("cannot remove {}: {error}", dir.display());
        }
        outcome
    }

    fn new_directory(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.place.path().join(number.to_string());
        DirBuilder::new().mode(0o755).create(&dir).expect("a new directory");
        // A user without privileges mounts as well.
        fs::create_dir(dir.join(CONNECTIONS)).expect("a new directory");
        fs::set_permissions(dir.join(CONNECTIONS), Permissions::from_mode(0o1777)).expect("our own");
        dir
    }
}
