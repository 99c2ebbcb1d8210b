//! Rough figures: `cargo test --release -p aysfs-store speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use futures::stream::{self, StreamExt};

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, proves nothing"]
async fn figures() {
    const FILES: u32 = 10_000;
    const READS: u32 = 1_000_000;
    let bench = Bench::new(1);
    let contents: Vec<_> = (0..FILES)
        .map(|n| {
            let plain: Vec<u8> = (0..1024_u32).flat_map(|i| (i * (n + 1)).to_le_bytes()).collect();
            let (content, stored) = object(&plain);
            bench.stor().give(&content.chunks[0].key, &stored);
            content
        })
        .collect();

    let began = Instant::now();
    stream::iter(&contents)
        .for_each_concurrent(64, |content| {
            let file = bench.file(content);
            async move {
                black_box(file.read(0, 4096).await.expect("fetched"));
            }
        })
        .await;
    println!("fetch: {:.0} files of 4 KiB a second", f64::from(FILES) / began.elapsed().as_secs_f64());

    let file = bench.file(&contents[0]);
    let began = Instant::now();
    for _ in 0..READS {
        black_box(file.read(0, 4096).await.expect("cached"));
    }
    println!("cached read of 4 KiB: {:?}", began.elapsed() / READS);

    let plain = file.complete().expect("cached");
    let began = Instant::now();
    for _ in 0..READS {
        let mut bytes = Vec::with_capacity(4096);
        rustix::io::pread(&**plain.file(), rustix::buffer::spare_capacity(&mut bytes), 0).expect("readable");
        black_box(bytes);
    }
    println!("the same by pread alone: {:?}", began.elapsed() / READS);
}
