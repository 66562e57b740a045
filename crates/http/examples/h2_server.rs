//! The HTTP/2 engine's server end on a socket, without a proxy around it: for h2spec, h2load and curl by hand.
//!
//! `cargo run -p meshwork-http --example h2_server [ADDRESS]`; it prints the address that it listens on. Clear text with prior
//! knowledge. What it answers is in `tests/h2/driver.rs`.

#![allow(clippy::disallowed_methods)] // here we are the driver

#[path = "../tests/h2/driver.rs"]
mod driver;

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(listen(&address))
}

async fn listen(address: &str) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            match driver::serve(stream).await {
                Ok(driver::Ended::Failed(error)) => eprintln!("{peer}: {error}"),
                Ok(driver::Ended::Closed) | Err(_) => {}
            }
        });
    }
}
