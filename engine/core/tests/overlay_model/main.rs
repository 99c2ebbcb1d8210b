//! A reference model of local changes: the same random steps on an [`Overlay`](aysfs_engine::Overlay) and on a filesystem in
//! memory that was filled with the same tree, compared after each step; with remounts in between.
//!
//! `AYSFS_MODEL_CASES` says how many sequences to try (of each form of the upper), `AYSFS_MODEL_STEPS` how long they may be;
//! a failure prints the shortest one that it finds.

mod base;
mod pair;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use aysfs_engine::Form;
use pair::{Outcome, Pair};
use proptest::test_runner::{Config, TestError, TestRunner};
use steps::Step;

/// Takes some ten seconds.
const CASES: u32 = 150;
const STEPS: u32 = 60;

fn run(form: Form) {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u32>().ok());
    let cases = number("AYSFS_MODEL_CASES").unwrap_or(CASES);
    let length = number("AYSFS_MODEL_STEPS").unwrap_or(STEPS) as usize;
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 5000, ..Config::default() };
    let result = TestRunner::new(config)
        .run(&(base::tree(), steps::steps(length)), |(tree, steps)| replay(form, &tree, &steps));
    match result {
        Ok(()) => {}
        Err(TestError::Abort(reason)) => panic!("{reason}"),
        Err(TestError::Fail(reason, (tree, steps))) => {
            let lines = |items: Vec<String>| items.join("\n  ");
            let tree = lines(tree.iter().map(|seed| format!("{seed:?}")).collect());
            let steps = lines(steps.iter().map(|step| format!("{step:?}")).collect());
            panic!("{reason}\nin the tree\n  {tree}\nafter\n  {steps}");
        }
    }
}

fn replay(form: Form, tree: &[base::Seed], steps: &[Step]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut pair = Pair::new(form, tree).await;
        if steps.len().is_multiple_of(2) {
            // What is cached passes through from the first open on.
            pair.check().await?;
        }
        for step in steps {
            pair.step(step).await?;
        }
        pair.check().await?;
        pair.remount().await?;
        pair.check().await
    })
}

#[test]
fn it_behaves_like_a_plain_filesystem_with_the_marks_of_root() {
    run(Form::Trusted);
}

#[test]
fn it_behaves_like_a_plain_filesystem_with_the_marks_of_everyone() {
    run(Form::User);
}
